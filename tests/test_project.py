"""What the files beside the code say is true: for contributors, for releases, for the repository's host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import extras

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", ROOT / "docs" / "release.md", ROOT / "docs" / "stability.md"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that are linked exist."""
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).strip().replace(" ", "-")
            for line in file.read_text().split("\n")
            if line.startswith("#")
        ]
        assert not anchor or anchor in headings, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in code marks are files or folders of the repository. NAME and TASK stand for any."""
    for name in re.findall(r"`((?:src|tests|docs|examples|benchmarks|deploy)/[\w/.-]*)`", page.read_text()):
        pattern = re.sub("NAME|TASK", "*", name).rstrip("/")
        assert list(ROOT.glob(pattern)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_that_are_named_exist(page: Path) -> None:
    """Each `make` command is one of the Makefile's."""
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for name in re.findall(r"(?:^ *|`)make ([\w-]+)", page.read_text(), re.M):
        assert name in made, name


def test_the_hook_before_a_commit_is_make_lint() -> None:
    """What a commit is checked for is what `make lint` checks."""
    (repository,) = _read(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    assert repository["repo"] == "local"
    assert (hook["entry"], hook["language"], hook["pass_filenames"]) == ("make lint", "system", False)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_complete(path: Path) -> None:
    """Each form has what its host asks for: a name, a description, and fields with IDs of their own."""
    form = _read(path)
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert form["name"] and form["description"] and fields
    assert all(field["type"] in {"textarea", "input"} and field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_every_extra_is_tried_alone() -> None:
    """`make extras` says what each extra is for."""
    assert set(extras.USES) == set(extras.extras())
