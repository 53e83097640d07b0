"""The pages of the frameworks are alike, and links find their way. `tests/test_docs.py` types the consoles."""

import re

import pytest

from tests.test_docs import PAGES, ROOT

FRAMEWORKS = [
    "howto-aiohttp.md",
    "howto-asgi.md",
    "howto-django.md",
    "howto-fastapi.md",
    "howto-flask.md",
    "howto-lilya.md",
    "howto-litestar.md",
    "howto-quart.md",
    "howto-ravyn.md",
]
# Each of these pages has these parts, in this order. What is special to its framework comes after them.
PARTS = ["Install", "A whole app", "Start it", "What curl answers", "Log in and out", "Devices", "CSRF"]


@pytest.mark.parametrize("page", FRAMEWORKS)
def test_the_pages_are_alike(page):
    """Each page of a framework has the same parts first, and says what differs and how to test."""
    parts = re.findall(r"^## (.*)$", (ROOT / "docs" / page).read_text(), re.M)
    assert parts[: len(PARTS)] == PARTS
    assert "Tests" in parts and any(part.startswith("What differs") for part in parts)


def test_every_page_is_linked():
    """Each page of the documentation is reached from the README or from another page."""
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
        if (page.parent / target).resolve() != page.resolve()
    }
    linked.add((ROOT / "docs" / "index.md").resolve())  # the first page of the site
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.resolve() not in linked] == []


@pytest.mark.parametrize("source", PAGES, ids=lambda source: source.name)
def test_every_link_into_a_page_finds_its_heading(source):
    """What follows the `#` of a link is a heading of the page that it leads to."""
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", source.read_text()):
        page = (source.parent / target) if target else source
        headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{target}#{anchor}"
