"""The documentation is true: its code runs, its links lead somewhere, its table of options is the code's."""

import contextlib
import dataclasses
import re
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from xml.etree import ElementTree

import pytest

from roomkey import SessionConfig
from roomkey.testing import StoreContract

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "roomkey"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
def test_every_code_block_runs(page, tmp_path, monkeypatch):
    """A page's blocks run one after the other, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET_KEY", "k" * 43)
    module = types.ModuleType("docs")
    monkeypatch.setitem(sys.modules, "docs", module)  # where some frameworks look up a handler's names
    namespace = vars(module)
    for block in _blocks(page):
        exec(compile(block, page.name, "exec"), namespace)
    contracts = [value for value in namespace.values() if isinstance(value, type) and StoreContract in value.__bases__]
    for contract in contracts:
        for name in dir(contract):
            if name.startswith("test_"):
                with contextlib.suppress(unittest.SkipTest):  # an optional protocol is not there
                    getattr(contract(), name)()
    assert bool(contracts) == (page.name == "write-your-own-store.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    """Relative links name files that exist."""
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def _is_module(name: str) -> bool:
    path = SOURCES.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("picture", ["parts.svg", "request.svg"])
def test_the_pictures_name_real_modules(picture):
    """Each name of a module in a picture is one, and no module of the core is missing in the picture of the parts."""
    drawn = ElementTree.parse(ROOT / "docs" / "pictures" / picture)
    texts = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "code"]
    names = {name for text in texts for name in re.split(r"[\s·:]+", text) if name.islower()}
    folders = ["", *(f"{path.name}." for path in SOURCES.iterdir() if path.is_dir())]
    assert names and [name for name in names if not any(_is_module(folder + name) for folder in folders)] == []
    core = {path.stem for path in (SOURCES / "core").glob("*.py")} - {"__init__"}
    assert picture != "parts.svg" or core - names == set()


def test_modules_that_the_design_names_exist():
    """The page names modules as they are, such as `core.plan`."""
    page = (ROOT / "docs" / "design.md").read_text() + (ROOT / "docs" / "decisions.md").read_text()
    named = re.findall(r"`(?:roomkey\.)?((?:core|in_cookie|legacy|stores|web|wire)\.[a-z_]+)(?:\.[A-Z]\w+)?`", page)
    assert named and [name for name in named if not _is_module(name)] == []


def test_files_that_the_readme_names_exist():
    """Each test file that is said to show a promise is there."""
    for name in re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists(), name


def test_the_table_of_options_is_the_codes():
    """Names, order and defaults of docs/options.md are those of SessionConfig."""
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", (ROOT / "docs" / "options.md").read_text(), re.M)
    expected = []
    for field in dataclasses.fields(SessionConfig):
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
        expected.append((field.name, "`time.time`" if field.name == "clock" else default))
    assert rows == expected


def test_no_tracked_text_names_a_machine():
    """No file holds a path of somebody's machine or the address of a package registry."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    suspicious = re.compile("/" + "work/|/" + r"root/|files\.python" + "hosted|simple/" + "index")
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".html", ".css", ""}:
            assert not suspicious.search(path.read_text(errors="ignore")), name
