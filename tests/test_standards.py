"""docs/standards.md is true: each requirement is there once and answered, each test that it names exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "standards.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| requirement"))
]
# Chapter 7 of ASVS 5.0 has these; so many does WSTG-SESS have.
ASVS = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2}
NIST = {"5.1", "5.1.1", "5.1.2", "5.2", "5.3"}


def _ids(prefix):
    return [row[0].removeprefix(prefix) for row in ROWS if row[0].startswith(prefix)]


def test_every_requirement_is_there_once():
    """No requirement is missing, and none is there twice."""
    assert _ids("ASVS ") == [f"{section}.{number + 1}" for section, count in ASVS.items() for number in range(count)]
    assert _ids("WSTG-SESS-") == [f"{number:02}" for number in range(1, 12)]
    assert {name.split()[0] for name in _ids("NIST ")} == NIST
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names))
    assert all(re.match(r"ASVS |NIST |Sheet: |WSTG-SESS-", name) for name in names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_answer_holds(row):
    """An answer names tests that exist, or says what is left to the app."""
    assert len(row) == 3 and row[1]
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", row[2])
    assert named or row[2].startswith("app: ")
    for file, name in named:
        (path,) = [*TESTS.rglob(file)]
        assert re.search(rf"^(async def|def|class) {name}\b", path.read_text(), re.MULTILINE), f"{file}::{name}"
