"""The documentation is true: its code runs, its links lead somewhere, its table of options is the code's."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from roomkey import SessionConfig
from tests.loop_clock import HANGS
from tests.reader import Reader, lasting, shows_nothing, steps_of

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "roomkey"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose consoles are typed by a test of their own.
TYPED_ELSEWHERE = ["README.md", "howto-deploy.md", "howto-doctor.md", "recipes-login.md", "tutorial.md"]


def _blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


def _all_blocks():
    for page in PAGES:
        for number, block in enumerate(_blocks(page), 1):
            yield pytest.param(page, block, id=f"{page.name}-{number}")


def _typed():
    for page in PAGES:
        has_console = any(step.kind == "console" for step in steps_of(page.read_text()))
        if has_console and page.name not in TYPED_ELSEWHERE:
            yield page


def _name(page, block):
    """Return the file name that the sentence before a block gives it; None: it gives none."""
    paragraph = page.read_text().partition(f"```python\n{block}")[0].rstrip().rpartition("\n\n")[2]
    found = re.search(r"[Ss]ave (?:this|it)\b[^.]* as `(\w+\.py)`", paragraph)
    return found and found[1]


@pytest.mark.parametrize(("page", "block"), [*_all_blocks()])
def test_every_code_block_runs_alone(page, block, tmp_path):
    """Pasted into a file, it runs: with the key in the environment, and beside the files that the page said to save."""
    for other in _blocks(page):
        name = _name(page, other)
        if name is not None and other != block:
            (tmp_path / name).write_text(other)
    name = _name(page, block) or "pasted.py"
    (tmp_path / name).write_text(block)
    command = ["-m", "pytest", "-q", "-p", "roomkey.pytest_plugin", name] if name.startswith("test_") else [name]
    run = _python(command, tmp_path)
    assert run.returncode == 0 and "Warning" not in run.stderr, run.stdout + run.stderr
    step = next(step for step in steps_of(page.read_text()) if step.kind == "python" and step.text == block)
    if step.promised is not None:
        assert lasting(run.stdout) == lasting(step.promised)
    elif not name.startswith("test_") and f"$ python {name}" not in page.read_text():
        assert run.stdout == "", "the page does not show it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_shows_its_outcome(page):
    """What it prints stands below it, or a console below uses the file that it is."""
    assert "\n\n".join(step.text for step in shows_nothing(page.read_text())) == ""


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
@pytest.mark.parametrize("page", [*_typed()], ids=lambda page: page.name)
def test_every_console_is_true(page, tmp_path):
    """Whoever follows a page sees what it shows, but for moments, versions, cookies and handles."""
    # Whoever follows a page has the plugin that comes with Roomkey, and none of those that these tests use.
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p roomkey.pytest_plugin"}
    with Reader(tmp_path, SECRET_KEY="k" * 43, **plugins) as reader:
        for shown, real in reader.follow(page.read_text()):
            assert lasting(real) == lasting(shown)


def _python(arguments, folder):
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEY_")}
    options = {"ROOMKEY_SECRET_KEY": "k" * 43, "ROOMKEY_STORE": "memory://"}
    environment = {**others, **options, "SECRET_KEY": "k" * 43, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=5 * HANGS
    )  # long enough for the whole contract of a store


def test_no_code_block_uses_a_name_that_it_lacks(tmp_path):
    """Also within functions that no test calls."""
    for number, block in enumerate(block for page in PAGES for block in _blocks(page)):
        (tmp_path / f"block_{number}.py").write_text(block)
    run = _python(["-m", "ruff", "check", "--isolated", "--select", "F821,F822,F823", "."], tmp_path)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_what_curl_shows_in_the_readme_is_true(tmp_path):
    """Each app starts as the page says, and each command answers what it shows, but for times and cookies."""
    with Reader(tmp_path) as reader:
        consoles = reader.follow((ROOT / "README.md").read_text())
    assert [page.count("$ curl ") for page, _ in consoles] == [4, 3]
    for page, real in consoles:
        assert lasting(real) == lasting(page)


def test_the_readme_names_this_version():
    """The wheel that it says to install has the name that the project gives it."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert re.findall(r"roomkey-(.+?)-py3", (ROOT / "README.md").read_text()) == [version]


def test_one_place_says_that_it_is_on_no_index():
    """Only the first pages, of the repository and of the site, say so. All others link there."""
    says_so = [page.name for page in PAGES if re.search(r"\bnot on PyPI\b", page.read_text())]
    assert says_so == ["README.md", "index.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    """Relative links name files that exist."""
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def _anchors(page: Path) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ (.+)$", text, re.M)]
    return {title.replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fragment_is_a_heading(page):
    """A link into a page, its own or another one, names one of its headings, as GitHub does."""
    for target, fragment in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.suffix != ".md" or fragment in _anchors(there), f"{target}#{fragment}"


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    """Each test file that is said to show a promise is there."""
    for name in re.findall(r"`(tests/[\w/]+\.py)`", page.read_text()):
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
