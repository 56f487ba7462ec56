"""Pictures for light and dark pages: where `NAME-dark.png` lies beside `NAME-light.png`, both are shown.

Which of the two is seen, the theme decides by their classes.
"""  # noqa: INP001 - Sphinx finds it by its folder

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_LIGHT, _DARK = "-light.png", "-dark.png"


class Pairs(SphinxTransform):
    """Put the dark picture beside each light one."""

    default_priority = 200  # before Sphinx collects the pictures of a page

    def apply(self, **_: Any) -> None:
        """Change the page."""
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for light in list(self.document.findall(nodes.image)):
            uri = light["uri"]
            dark_uri = uri.removesuffix(_LIGHT) + _DARK
            if not uri.endswith(_LIGHT) or not (folder / dark_uri).exists():
                continue
            dark = light.deepcopy()
            dark["uri"] = dark_uri
            light["classes"].append("only-light")
            dark["classes"].append("only-dark")
            light.parent.insert(light.parent.index(light) + 1, dark)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_transform(Pairs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
