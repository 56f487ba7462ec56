"""Make the tables of docs/reliability.md from the promises that tests prove, and run those tests.

    .venv/bin/python -m tools.reliability                  # runs every one of them, then writes the page
    .venv/bin/python -m tools.reliability --only kernel    # runs some, as pytest's -k; writes nothing
    .venv/bin/python -m tools.reliability --collect        # writes the rows without running
    .venv/bin/python -m tools.reliability --check          # says whether the rows are as they should be

The page's other words are written by hand, and kept. If a promise is broken, nothing is written.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.faults.contract import PARTS, Promise, promise_of

from llmlab.backends import docker_api
from llmlab.comparing import environment

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
_HEAD = (
    "| What breaks | What you see | What is kept | What is cleaned | Within | Test |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Collected:
    """What pytest has found and seen; it is given to pytest as a plugin.

    Attributes:
        tests: Of each promise, the tests that prove it, as file::name.
        outcomes: Of each of these tests, how its cases ended: "passed", "failed" or "skipped: why".
    """

    tests: dict[Promise, list[str]] = field(default_factory=dict)
    outcomes: dict[str, set[str]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the promises; all cases of a test are one."""
        for item in session.items:
            made = promise_of(item)
            assert made
            assert isinstance(item, pytest.Function)
            # Where it is written: the backends' suite is run by several files.
            path = Path(item.function.__code__.co_filename).relative_to(ROOT / "tests")
            name = self._names[item.nodeid] = f"{path.as_posix()}::{item.originalname}"
            tests = self.tests.setdefault(made, [])
            if name not in tests:
                tests.append(name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how a test, its setup or its end has gone."""
        if report.when == "call" or report.outcome != "passed":
            why = f": {_reason(report)}" if report.skipped else ""
            self.outcomes.setdefault(self._names[report.nodeid], set()).add(f"{report.outcome}{why}")

    def ended(self, test: str, how: str) -> list[str]:
        """The outcomes of a test that begin so."""
        return sorted(each for each in self.outcomes.get(test, ()) if each.startswith(how))


def collect(*options: str) -> Collected:
    """Find the tests that prove a promise, and run them unless the options say otherwise.

    Args:
        options: More options for pytest.
    """
    found = Collected()
    ended = pytest.main(["-m", "promise", "-p", "no:cacheprovider", *options, str(ROOT / "tests")], [found])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"pytest could not do it: {ended!r}")
    return found


def rows(found: Collected) -> dict[str, str]:
    """The table of each part."""
    tables = {}
    for part in PARTS:
        lines = [_row(made, tests) for made, tests in found.tests.items() if made.part == part]
        tables[part] = _HEAD + "\n".join(sorted(lines))
    return tables


def ran(found: Collected) -> str:
    """What the tests ran on, and what was skipped."""
    day = dt.datetime.now(tz=dt.timezone.utc).date()
    lines = [f"{len(found.tests)} promises, tested on {day} with {', '.join(_here())}. None was broken.", ""]
    skipped = [
        f"- `{test}`: {why.removeprefix('skipped: ')}"
        for test in sorted(found.outcomes)
        for why in found.ended(test, "skipped")
    ]
    return "\n".join([*lines, *(["Skipped there:", "", *skipped] if skipped else ["Nothing was skipped."])])


def block(page: str, name: str) -> str:
    """What stands in the page between two markers."""
    found = _pattern(name).search(page)
    if not found:
        sys.exit(f"{PAGE.name} has no markers for {name!r}")
    return found[2].strip()


def with_block(page: str, name: str, text: str) -> str:
    """The page with something else between two markers."""
    block(page, name)
    return _pattern(name).sub(lambda found: f"{found[1]}\n\n{text}\n\n{found[3]}", page)


def _pattern(name: str) -> re.Pattern[str]:
    """Two markers with what is between them: `<!-- begin NAME -->` and `<!-- end NAME -->`."""
    return re.compile(rf"(<!-- begin {name} -->)(.*?)(<!-- end {name} -->)", re.DOTALL)


def _row(made: Promise, tests: list[str]) -> str:
    named = ", ".join(f"`{test}`" for test in tests)
    cells = (made.fault, made.sees, made.keeps, made.cleans, f"{made.within_s:g} s", named)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix(
        "Skipped: "
    )


def _here() -> list[str]:
    """What the tests have run on."""
    from tests.conftest import other_engines  # noqa: PLC0415 - pytest has to be the first that imports it

    seen = environment.look()
    found = [seen["kernel"], f"Python {seen['python']}", f"Docker Engine {seen['container engine']}"]
    for kind in ("docker", "podman"):
        for address in other_engines(kind):
            version = docker_api.connect(address).info.get("ServerVersion")
            found.append(f"{kind.capitalize()} {version} beside it")
    return found


def _check(page: str, tables: dict[str, str]) -> str:
    """What is wrong with the page, or nothing."""
    wrong = [part for part in PARTS if block(page, part) != tables[part].strip()]
    return f"{PAGE.name}: other rows are promised for {', '.join(wrong)}" if wrong else ""


def main() -> None:
    """Write the page, or say what is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--collect", action="store_true", help="write the rows without running the tests")
    how.add_argument("--check", action="store_true", help="say whether the page has the right rows")
    how.add_argument("--only", metavar="EXPRESSION", help="run some, as pytest's -k; nothing is written")
    given = parser.parse_args()
    if given.only:
        found = collect("-k", given.only)
    else:
        found = collect(*(["--collect-only", "-q"] if given.collect or given.check else []))
    if broken := [test for test in sorted(found.outcomes) if found.ended(test, "failed")]:
        sys.exit("broken: " + ", ".join(broken))
    if given.only:
        return
    page, tables = PAGE.read_text(encoding="utf-8"), rows(found)
    if given.check:
        sys.exit(_check(page, tables) or 0)
    for part, table in tables.items():
        page = with_block(page, part, table)
    if not given.collect:
        page = with_block(page, "run", ran(found))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
