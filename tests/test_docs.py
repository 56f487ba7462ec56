"""The documentation's site: whole, true to the verbs, and readable from a USB stick."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import llmlab
from llmlab import verbs
from llmlab.checkup import checks
from llmlab.checkup.facts import Facts, from_dict

from .conftest import REPOSITORY
from .jupyterlab import FLAGS

DOCS = REPOSITORY / "docs"
CHECKER = REPOSITORY / "tools" / "check_site.py"
FACTS = REPOSITORY / "tests" / "data" / "doctor"
# Facts of a machine → the pages that tell its owner what to do.
PLATFORMS = {
    "debian12-docker-20.10": ("linux",),
    "macos-apple-silicon": ("macos",),
    "macos-intel": ("macos",),
    "podman": ("podman", "linux"),
    "debian-podman-rootless": ("podman", "linux"),
    "rootless-docker": ("rootless", "linux"),
    "ubuntu-nvidia-no-toolkit": ("linux", "gpu"),
    "windows": ("windows-wsl2",),
    "wsl2-docker-inside": ("windows-wsl2", "linux", "gpu"),
}
# Rows whose fixes are about this machine's Python or models, not about its platform.
ELSEWHERE = {"llama.cpp", "packages", "widgets", "JupyterLab", "Jupyter server", "disk"}


def sphinx(source: Path, site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-E"]
    command += ["-d", str(site.with_name("trees")), *options, str(source), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHECKER), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("docs") / "site"
    done = sphinx(DOCS, made)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return made


def ids(page: Path) -> set[str]:
    return {unescape(found) for found in re.findall(r'id="([^"]+)"', page.read_text("utf-8"))}


def text(page: Path) -> str:
    spaced = re.sub(r"</(?:dt|dd|p)>", " ", page.read_text("utf-8"))
    return unescape(re.sub(r"<[^>]+>", "", spaced))


def test_every_link_resolves_and_nothing_is_loaded_from_elsewhere(site):
    done = check(site)
    assert done.returncode == 0, done.stdout


def test_every_verb_has_its_section_with_each_option(site):
    page = site / "reference" / "verbs.html"
    anchors, said = ids(page), text(page)
    for name, verb in verbs.VERBS.items():
        assert f"verb-{name}" in anchors
        assert f"%llm {name}" in said
        assert f"llmlab {name}" in said
        for parameter in verb.options:
            assert all(flag in said for flag in parameter.flags), (name, parameter.name)


def test_a_verbs_section_says_help_and_default_of_an_option(site):
    said = " ".join(text(site / "reference" / "verbs.html").split())
    assert "--slots SLOTS Requests answered at the same time; llama-cpp-python has one." in said
    assert "slots=4" in said


def test_every_exported_name_has_an_entry(site):
    anchors = ids(site / "reference" / "python.html") | ids(site / "reference" / "errors.html")
    assert {f"llmlab.{name}" for name in llmlab.__all__} <= anchors


def test_every_error_has_an_entry(site):
    anchors = ids(site / "reference" / "errors.html")
    for name, kind in vars(llmlab.errors).items():
        if inspect.isclass(kind) and issubclass(kind, llmlab.LabError):
            assert {f"llmlab.errors.{name}", f"llmlab.{name}"} & anchors, name


def test_an_attribute_is_shown_with_its_type(site):
    said = " ".join(text(site / "reference" / "python.html").split())
    assert "ttft_s (float | None)" in said


def test_every_notebook_is_a_tutorial(site):
    names = {path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert names
    assert names == {path.stem for path in (site / "_tutorials").glob("*.html")}


def test_every_page_can_be_reached_from_the_first(site):
    todo, seen = [site / "index.html"], set()
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".html":
            continue
        seen.add(page)
        links = re.findall(r'<a [^>]*href="([^"#:]+\.html)', page.read_text("utf-8"))
        todo += [(page.parent / link).resolve() for link in links]
    written = {path.resolve() for path in site.rglob("*.html")} - {
        site / "search.html",
        site / "genindex.html",
    }
    assert {path.name for path in written - seen - {site / "py-modindex.html"}} == set()


def test_files_of_the_repository_are_pages_with_their_links_turned(site):
    design = (site / "about" / "design.html").read_text("utf-8")
    assert "One trace" in design
    benchmarks = (site / "results" / "benchmarks.html").read_text("utf-8")
    assert "What is laid side by side".lower() in benchmarks.lower()
    gpu = (site / "gpu.html").read_text("utf-8")
    assert '<span class="pre">bench/results/gpu</span>' in gpu  # a folder that is no page: named, not linked


def test_the_site_works_from_a_folder_in_a_browser(site, require_browser):
    asked: list[str] = []
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_browser, args=FLAGS)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda fault: faults.append(str(fault)))
        wide = []
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(path.relative_to(site).as_posix())
        page.goto((site / "search.html").as_uri() + "?q=isolation")
        page.wait_for_selector("#search-results li a")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert faults == []
    assert wide == []


def fixes(facts: Facts) -> list[str]:
    """The doctor's commands for a platform, without its remarks."""
    rows = [row for row in checks.examine(facts) if row.name not in ELSEWHERE]
    return [command for row in rows for command in row.fix if not command.startswith("#")]


@pytest.mark.parametrize("machine", PLATFORMS)
def test_a_platforms_page_has_the_commands_that_the_doctor_tells(machine):
    facts = from_dict(json.loads((FACTS / f"{machine}.json").read_text("utf-8")))
    told = fixes(facts)
    if facts.system != "Windows":
        socket = {"address": "unix:///var/run/docker.sock", "source": "default", "error": "missing"}
        told += fixes(replace(facts, engine=socket))
    pages = [(DOCS / "install" / f"{name}.md").read_text("utf-8") for name in PLATFORMS[machine]]
    written = " ".join("\n".join(pages).split())
    assert told
    assert [command for command in told if " ".join(command.split()) not in written] == []


def bad_site(folder: Path, page: str) -> Path:
    (folder / "index.html").write_text(f'<html><body id="top"><p>{page}</p></body></html>', "utf-8")
    (folder / "other.html").write_text('<html><body><h1 id="there">here</h1></body></html>', "utf-8")
    return folder


@pytest.mark.parametrize(
    "page",
    [
        '<a href="other.html">fine</a> <a href="other.html#there">fine</a> <a href="#top">fine</a>',
        '<a href="https://example.org/">may be followed</a> <img src="data:image/png;base64,AA==">',
    ],
)
def test_the_checker_lets_a_good_page_pass(page, tmp_path):
    done = check(bad_site(tmp_path, page))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">x</a>', "gone.html: no such file"),
        ('<a href="other.html#gone">x</a>', "other.html#gone: no such anchor"),
        ('<a href="#gone">x</a>', "#gone: no such anchor"),
        ('<a href="/other.html">x</a>', "/other.html: absolute"),
        ('<a href="../outside.html">x</a>', "../outside.html: outside of the site"),
        ('<a href="">x</a>', "a link without a target"),
        ('<img src="gone.png">', "gone.png: no such file"),
        ('<img srcset="gone.png 2x">', "gone.png: no such file"),
        ('<script src="https://cdn.example.org/a.js"></script>', "https://cdn.example.org/a.js: loaded from"),
        (
            '<link rel="stylesheet" href="//fonts.example.org/a.css">',
            "//fonts.example.org/a.css: loaded from",
        ),
        (
            "<style>p { background: url('https://example.org/a.png') }</style>",
            "https://example.org/a.png: loaded",
        ),
        ('<p style="background: url(//example.org/a.png)">', "//example.org/a.png: loaded from"),
        ('<script>import("https://example.org/a.js")</script>', "https://example.org/a.js: loaded from"),
        ('<iframe src="https://example.org/"></iframe>', "https://example.org/: loaded from"),
    ],
)
def test_the_checker_finds_what_is_wrong(page, fault, tmp_path):
    done = check(bad_site(tmp_path, page))
    assert done.returncode == 1
    assert f"index.html: {fault}" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.css", "@import 'https://example.org/b.css';", "https://example.org/b.css: loaded from"),
        ("a.css", "p { src: url(gone.woff2) }", "gone.woff2: no such file"),
        ("a.js", "const x = await fetch('https://example.org/b.json')", "https://example.org/b.json: loaded"),
    ],
)
def test_the_checker_reads_styles_and_scripts(name, content, fault, tmp_path):
    (bad_site(tmp_path, "fine") / name).write_text(content, "utf-8")
    done = check(tmp_path)
    assert done.returncode == 1
    assert f"{name}: {fault}" in done.stdout


def small_site(folder: Path, page: str, before: str = "") -> subprocess.CompletedProcess[str]:
    conf = f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\n{before}\nextensions = ['myst_parser', 'verbs']\n"
    conf += "myst_enable_extensions = ['deflist', 'attrs_inline', 'colon_fence']\n"
    (folder / "source").mkdir()
    (folder / "source" / "conf.py").write_text(conf, "utf-8")
    (folder / "source" / "index.md").write_text(f"# Title\n\n{page}\n", "utf-8")
    return sphinx(folder / "source", folder / "site")


def test_a_verb_without_documentation_stops_the_build(tmp_path):
    (tmp_path / "bare_verb.py").write_text(
        "from llmlab.results import Result\n\n\n"
        'def bare(name: str, *, fast: bool = False) -> Result:\n    """Do it.\n\n    Args:\n        name: Whose.\n    """\n',
        "utf-8",
    )
    before = (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from llmlab import verbs\n"
        "verbs._MODULES['bare'] = 'bare_verb'\n"
        "verbs.VERBS = {'bare': verbs.Verb('bare')}\n"
    )
    done = small_site(tmp_path, "```{verbs}\n```", before)
    assert done.returncode != 0
    assert "verb bare: its docstring lacks the argument fast" in done.stderr
    assert "the argument name" not in done.stderr


def test_a_link_to_a_page_that_is_not_there_stops_the_build(tmp_path):
    done = small_site(tmp_path, "[x](gone.md)")
    assert done.returncode != 0
    assert "gone.md" in done.stderr
