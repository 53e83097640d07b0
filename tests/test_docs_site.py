"""The docs site: it is built without a warning, leads nowhere wrong, asks no other host, and has every public name."""

import dataclasses
import html
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

pytest.importorskip("zensical")
pytest.importorskip("griffe")

from roomkey import SessionConfig
from tests.loop_clock import HANGS
from tests.test_browser import browser  # noqa: F401  # a fixture
from website import checks
from website.__main__ import ROOT, build

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy: `make docs` or another process may be building one here."""
    root = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", root)
    for folder in ["docs", "src", "website"]:
        shutil.copytree(ROOT / folder, root / folder)
    assert build(root) == []
    return root / "site"


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    """Fonts, scripts, styles and pictures are the site's own."""
    assert checks.outside_references(site) == []


def test_no_page_needs_a_diagram_script(site: Path) -> None:
    """The theme fetches a script from elsewhere for diagrams in pages. No page has one: pictures are SVG files."""
    assert [path.name for path in site.rglob("*.html") if 'class="mermaid"' in path.read_text()] == []


def test_no_link_is_dead(site: Path) -> None:
    """Each link leads to a file, and each fragment to an ID in it."""
    assert checks.dead_links(site) == []


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody finds is not there."""
    assert checks.pages_not_in_the_navigation(DOCS, ROOT / "mkdocs.yml") == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """Whatever the `__all__` of a documented module has is described there."""
    assert checks.missing_names(site, DOCS, ROOT / "src") == []


def test_every_module_of_the_typing_tests_is_documented() -> None:
    """A new module gets its place in the reference: `docs/reference/` names it, or what it has."""
    typed = [path.read_text() for path in (ROOT / "tests" / "typing").glob("*.py")]
    modules = {name for text in typed for name in re.findall(r"^\s*from (roomkey[\w.]*) import", text, re.M)}
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    assert "roomkey.csrf" in modules
    assert [name for name in sorted(modules) if not re.search(rf"^::: {re.escape(name)}\b", pages, re.M)] == []


def test_each_option_stands_in_the_reference_with_its_default(site: Path) -> None:
    """Of the configuration, the reference shows the fields, and not what a type checker alone sees."""
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "reference" / "roomkey.html").read_text()))
    fields = [field for field in dataclasses.fields(SessionConfig) if field.default is not dataclasses.MISSING]
    shown = [field.default.__name__ if callable(field.default) else repr(field.default) for field in fields]
    missing = [
        field.name
        for field, default in zip(fields, shown, strict=True)
        if not re.search(rf"\b{field.name}: [^=]+ = {re.escape(default)}[,\n]", text.replace('"', "'"))
    ]
    assert missing == []


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing about requests."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site, served as files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_pages_fit_the_screen_and_ask_nobody_else(
    browser: "Browser",  # noqa: F811
    address: str,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    """No page is wider than a phone or a desktop. The browser asks no other host, and finds nothing to complain of."""
    context = browser.new_context(base_url=address, viewport={"width": width, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(HANGS * 1000)  # milliseconds
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(address) else None)
    background = set()
    for name in ["index", "tutorial", "options", "design", "reference/roomkey"]:
        page.goto(f"{name}.html")
        page.get_by_role("heading", level=1).wait_for()
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            complaints.append(f"{name} is wider than {width}")
        background.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    context.close()
    assert complaints == []
    assert len(background) == 1 and ("255, 255, 255" in background.pop()) == (scheme == "light")


def _page(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"<html><body>{body}</body></html>")


def test_the_checks_find_what_is_wrong(tmp_path: Path) -> None:
    """A dead link, a fragment of nothing, and whatever comes from another host are each found."""
    _page(tmp_path, "here.html", '<p id="there"></p><a href="#there"></a><a href="here.html#there"></a>')
    _page(tmp_path, "dead.html", '<a href="none.html"></a><a href="here.html#none"></a><a href="https://host/"></a>')
    _page(
        tmp_path,
        "loads.html",
        '<link href="https://host/a.css"><script src="//host/b.js"></script><img src="data:image/png;base64,AA==">'
        "<style>@font-face { src: url(http://host/c.woff) }</style>",
    )
    (tmp_path / "d.css").write_text("@import 'https://host/d.css'; a { background: url(data:image/png;base64,AA==) }")
    assert checks.dead_links(tmp_path) == ["dead.html: none.html", "dead.html: here.html#none"]
    assert [line.partition(" loads ")[2] for line in checks.outside_references(tmp_path)] == [
        "https://host/a.css",
        "//host/b.js",
        "http://host/c.woff",
        "https://host/d.css",
    ]


def test_a_page_outside_the_navigation_is_found(tmp_path: Path) -> None:
    """The check names the page."""
    (tmp_path / "a.md").write_text("# A")
    (tmp_path / "b.md").write_text("# B")
    (tmp_path / "mkdocs.yml").write_text("nav:\n  - A: a.md\n")
    assert checks.pages_not_in_the_navigation(tmp_path, tmp_path / "mkdocs.yml") == ["b.md"]
