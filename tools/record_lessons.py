"""Record the results that the lessons show where they cannot be had.

    python -m tools.record_lessons 02-audit 02-receipts    # these
    python -m tools.record_lessons                         # all

Each is made by running the real verb on real servers, and written beside the
module `llmlab.workshop.recordings`. Run it on a machine that does nothing else. Those of
lesson 08 need root, for three container engines.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from tools import record_cluster

import llmlab
from llmlab import machine, render
from llmlab.backends import docker_api
from llmlab.results import Result
from llmlab.workshop import looking
from llmlab.workshop.recordings import Recording

FOLDER = Path(__file__).parents[1] / "src/llmlab/workshop/recordings"
RESULTS = Path(__file__).parents[1] / "bench/results"
_MOST_BYTES = 60_000
# What a recording is of: the command as it is typed, and its result.
Made = tuple[str, Result]


@contextmanager
def three_servers() -> Iterator[None]:
    """The servers of lesson 02."""
    with (
        llmlab.start("tiny", name="plain", backend="native"),
        llmlab.start("tiny", name="boxed", backend="container"),
        llmlab.start("tiny", name="leaky", backend="container", network="bridge", root="writable"),
    ):
        yield


def receipts() -> Made:
    """Three servers' receipts, side by side."""
    with three_servers():
        return 'receipts("plain", "boxed", "leaky")', looking.receipts("plain", "boxed", "leaky")


def audit() -> Made:
    """What is attempted on the sealed one."""
    with three_servers():
        return "%llm audit boxed", llmlab.audit("boxed")


def against() -> Made:
    """The sealed one and the weaker one."""
    with three_servers():
        return "%llm audit boxed --against leaky", llmlab.audit("boxed", against="leaky")


def apart() -> Made:
    """What the sealed one has for itself."""
    with three_servers():
        return 'kept_apart("boxed")', looking.kept_apart("boxed")


def stored(card: str, command: str) -> Recording:
    """A comparison of `bench/results/cards`, which was measured while nothing else ran; without its requests."""
    measured = replace(llmlab.compare(show=str(RESULTS / "cards" / card)), replayed=None)
    about, data = measured.card.machine, measured.to_dict()
    return Recording(
        name="",
        command=command,
        made=measured.card.made[:10],
        machine=f"a Linux machine with {about['cpus']} CPUs ({about['cpu']}), Docker Engine {about['container engine']}",
        text=str(measured),
        html=re.sub(r"<details.*?</details>", "", measured.to_html(), flags=re.DOTALL),
        data={key: value for key, value in data.items() if key != "card"} | {"blocks": measured.card.planned},
    )


def on_a_gpu() -> Recording:
    """What `bench/results/gpu` says of one and of eight requests at a time."""
    found = json.loads((RESULTS / "gpu" / "recordings.json").read_text(encoding="utf-8"))
    gpu = json.loads((RESULTS / "gpu" / "machine.json").read_text(encoding="utf-8"))["gpus"][0]["name"]
    rows = []
    for each in (found["1b"], found["8b"]):
        for phase in each["phases"]:
            if phase["phase"] in ("decode", "8 at once"):
                seconds, joules = phase["to_s"] - phase["from_s"], phase["energy"]["joules"]
                rows.append(
                    {
                        "model": each["model"],
                        "at_once": 8 if phase["phase"] == "8 at once" else 1,
                        "tokens_per_s": round(phase["tokens"] / seconds),
                        "joules_per_token": round(joules / phase["energy"]["tokens"], 2),
                    }
                )
    header = ("model", "at once", "tokens/s, all", "J/token")
    cells = [[str(value) for value in row.values()] for row in rows]
    return Recording(
        name="",
        command="bench/gpu/run",
        made=found["when"],
        machine=f"a Linux machine with an {gpu}",
        text=render.text_table([name.upper() for name in header], cells),
        html=render.html_table(header, cells),
        data={"gpu": gpu, "rows": rows},
    )


def from_three_machines(name: str) -> Recording:
    """A part of lesson 08, which is gone through once."""
    return record_cluster.lesson(recorded_now)[name]


RECORDINGS: dict[str, Callable[[], Made | Recording]] = {
    "02-receipts": receipts,
    "02-audit": audit,
    "02-against": against,
    "02-kept-apart": apart,
    "03-compare": lambda: stored("tiny.json", "llmlab compare tiny --blocks 20 --seed 1"),
    "03-quota": lambda: stored("quota.json", "llmlab compare tiny --threads 2 --cpus 1 --blocks 8 --seed 1"),
    "05-gpu": on_a_gpu,
    **{name: partial(from_three_machines, name) for name in record_cluster.NAMES},
}


def machine_in_words() -> str:
    """This machine, without its name."""
    here = machine.look()
    words = [f"a Linux machine with {here.cpus} CPUs ({here.cpu})", f"{round(here.total_mib / 1024)} GiB"]
    words.append(f"Docker Engine {docker_api.connect().info.get('ServerVersion', '')}".rstrip())
    if os.geteuid() == 0:
        words.append("as root")
    return ", ".join(words)


def brief_html(html: str) -> str:
    """HTML without what appears under the pointer, and without what is folded away: that is most of an audit."""
    html = re.sub(r' (title|aria-label)="[^"]*"', "", html)
    return re.sub(r"<details.*?</details>", "", html, flags=re.DOTALL)


def brief_data(data: dict[str, Any]) -> dict[str, Any]:
    """An audit's findings without what is said of each check everywhere else; all else as it is."""
    for index, audited in enumerate(data.get("audits", [data])):
        for finding in audited.get("findings", ()):
            if index and finding["verdict"] == "pass":
                finding["attempts"] = []  # as on the first server
            for word in ("cis", "meaning", "severity", "attempted", "ms"):
                del finding[word]
            finding["attempts"] = [
                {word: each[word] for word in ("text", "observed", "control_observed")}
                for each in finding["attempts"]
            ]
    return data


def recorded_now(name: str, command: str, result: Result) -> Recording:
    """What was made just now, on this machine."""
    return Recording(
        name=name,
        command=command,
        made=datetime.now(timezone.utc).date().isoformat(),
        machine=machine_in_words(),
        text=str(result),
        html=brief_html(result.to_html() or ""),
        data=brief_data(result.to_dict()),
    )


def write(name: str) -> Path:
    """Make one of them and write it."""
    made = RECORDINGS[name]()
    recording = replace(made, name=name) if isinstance(made, Recording) else recorded_now(name, *made)
    text = json.dumps(asdict(recording), ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > _MOST_BYTES:
        raise SystemExit(f"{name} takes {len(text.encode())} bytes; {_MOST_BYTES} are the most")
    path = FOLDER / f"{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Make those that are named, or all."""
    for name in sys.argv[1:] or RECORDINGS:
        if name not in RECORDINGS:
            raise SystemExit(f"no recording is called {name}; there are {', '.join(RECORDINGS)}")
        path = write(name)
        print(f"{name}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
