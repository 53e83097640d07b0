"""The page by log line: whatever Roomkey logs for people has a row there, and every row is a line of the log."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
_LOGS = {"warning": 0, "error": 0, "exception": 0, "critical": 0, "warn": 0, "warn_once": 1, "_warn": 0}
_MADE_OF_OTHERS = {
    "% (said once)",  # what `warn_once` is given
    "session store %: %",  # what `RedisStore._warn` is given, whose rows begin with it
    "%",  # asyncio's own words
}


def _lines() -> Iterator[str]:
    """Give the text of each log line in the sources, with % for what differs."""
    for path in sorted((ROOT / "src" / "roomkey").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                place = _LOGS.get(node.func.attr, len(node.args))
                if place < len(node.args) and (text := _text(node.args[place])) is not None:
                    yield f"session store %: {text}" if node.func.attr == "_warn" else text


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[a-z]", "%", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "%" for part in node.values)
    return None


LINES = sorted(set(_lines()) - _MADE_OF_OTHERS)
ROWS = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.M)


def _is_of(row: str, line: str) -> bool:
    """Return whether a row shows the beginning of a line."""
    return re.match(".+?".join(map(re.escape, row.split("..."))), line) is not None


@pytest.mark.parametrize("line", LINES)
def test_every_log_line_has_its_row(line: str) -> None:
    """Somebody who finds it in a log finds here what to do."""
    assert [row for row in ROWS if _is_of(row, line)], f"docs/troubleshooting.md has no row for: {line}"


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_log_line(row: str) -> None:
    """No row outlives its line."""
    assert [line for line in LINES if _is_of(row, line)]


def test_the_lines_are_found() -> None:
    """Those of a logger, those that are said once, and a warning."""
    assert len(LINES) > 20
    for start in ("session store % available again", "https_only=True, but", "secret_key is shorter"):
        assert any(line.startswith(start) for line in LINES)
