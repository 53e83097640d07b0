"""What must hold of the built site, beside what its builder checks. Each check returns lines that say what is wrong."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import griffe

__all__ = ["dead_links", "missing_names", "outside_references", "pages_not_in_the_navigation"]

_LOADED = {"link": "href", "script": "src", "img": "src", "source": "src", "iframe": "src", "video": "src"}


class _Page(HTMLParser):
    """What a page loads, where it leads, and what can be pointed at in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        if "id" in given:
            self.ids.add(given["id"])
        if tag in _LOADED and _LOADED[tag] in given:
            self.loads.append(given[_LOADED[tag]])
        elif tag == "a" and "href" in given:
            self.leads.append(given["href"])
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.loads += re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", data)


def _pages(site: Path) -> dict[Path, _Page]:
    return {path.resolve(): _Page(path) for path in sorted(site.rglob("*.html"))}


def _is_outside(target: str) -> bool:
    return target.startswith("//") or urlsplit(target).scheme not in {"", "data"}


def outside_references(site: Path) -> list[str]:
    """Name each font, script, style or picture that a page or a style sheet has from another host."""
    found = [
        f"{path.name} loads {target}"
        for path, page in _pages(site).items()
        for target in page.loads
        if _is_outside(target)
    ]
    for path in sorted(site.rglob("*.css")):
        for target in re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", path.read_text(encoding="utf-8")):
            if _is_outside(target):
                found.append(f"{path.name} loads {target}")
    return found


def dead_links(site: Path) -> list[str]:
    """Name each link and each loaded file that leads to no file, and each `#fragment` that its page does not have."""
    pages = _pages(site)
    return [
        f"{path.name}: {target}"
        for path, page in pages.items()
        if path.name != "404.html"  # it is served at any depth, so its links begin at the root of the server
        for target in page.loads + page.leads
        if not _is_outside(target) and not target.startswith("data:") and not _leads_somewhere(path, target, pages)
    ]


def _leads_somewhere(path: Path, target: str, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(target)
    there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if there.is_dir():
        there /= "index.html"
    if there not in pages or not parts.fragment:
        return there.is_file()
    return unquote(parts.fragment) in pages[there].ids


def pages_not_in_the_navigation(docs: Path, configuration: Path) -> list[str]:
    """Name each page of the documentation that the navigation does not have."""
    named = set(re.findall(r"^ +- .*: ([\w/-]+\.md)$", configuration.read_text(encoding="utf-8"), re.M))
    return [name for path in sorted(docs.rglob("*.md")) if (name := path.relative_to(docs).as_posix()) not in named]


def missing_names(site: Path, docs: Path, sources: Path) -> list[str]:
    """Name each public name of a documented module that the reference does not have.

    A module is documented where a page of `docs/reference` names it, or something in it. A name that comes from
    another documented module has its place there.
    """
    ids = {each for page in _pages(site).values() for each in page.ids if each.startswith("roomkey.")}
    loader = griffe.GriffeLoader(search_paths=[sources])
    package = loader.load("roomkey")
    loader.resolve_aliases()
    there = {_of(package, name).canonical_path for name in ids}
    return [
        f"{module.path}.{name} is not in the reference"
        for module in _documented(docs, package)
        for name in module.exports or ()
        if module[str(name)].canonical_path not in there
    ]


def _documented(docs: Path, package: griffe.Object | griffe.Alias) -> Iterator[griffe.Object | griffe.Alias]:
    paths = [*docs.rglob("reference/*.md")]
    named = {name for path in paths for name in re.findall(r"^::: ([\w.]+)$", path.read_text(encoding="utf-8"), re.M)}
    found = {name if _of(package, name).is_module else name.rpartition(".")[0] for name in named}
    return (_of(package, name) for name in sorted(found))


def _of(package: griffe.Object | griffe.Alias, name: str) -> griffe.Object | griffe.Alias:
    return package if name == "roomkey" else package[name.removeprefix("roomkey.")]
