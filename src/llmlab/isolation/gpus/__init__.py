"""How a container gets GPUs: what is asked of the container engine, by what it can do.

- **runtime**: NVIDIA's container toolkit, as `docker run --gpus` asks for it; it brings the
  device files and the driver's libraries in.
- **cdi**: the Container Device Interface. A file that the toolkit has written says what a device
  needs, and the engine does that itself.
- **files**: neither is there. The device files and the driver's libraries are named one by one,
  which is all that the other two do for a program that computes.
- **wsl**: the same in Windows' Linux, where one device file stands for all GPUs.
- **render**: AMD's and Intel's, which need no libraries of the driver's: device files, and the groups
  that may use them.
"""

from llmlab.isolation.gpus.access import GpuAccess, access, asked, environment
from llmlab.isolation.gpus.cuda import unmet
from llmlab.isolation.gpus.exceptions import exceptions
from llmlab.isolation.gpus.files import DriverFiles, driver_files, is_drivers, parse_ldconfig
from llmlab.isolation.gpus.render_nodes import DeviceFile, RenderNode, render_nodes

__all__ = [
    "DeviceFile",
    "DriverFiles",
    "GpuAccess",
    "RenderNode",
    "access",
    "asked",
    "driver_files",
    "environment",
    "exceptions",
    "is_drivers",
    "parse_ldconfig",
    "render_nodes",
    "unmet",
]
