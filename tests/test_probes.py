"""The comparison with other libraries: Roomkey's own column is as the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.probes.questions import QUESTIONS
from benchmarks.probes.running import PEERS
from tests.loop_clock import HANGS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "comparison.md"


def _rows(text):
    """Return the cells of the table's rows, but for the line below its head. How long an answer took may differ."""
    lines = [re.sub(r"after \d+ s", "after some seconds", line) for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if row[0] != "---"]


def test_roomkeys_column_is_what_the_page_says():
    """The probes are run against Roomkey, and see what stands in its column."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks.probes", "roomkey"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=5 * HANGS)
    assert run.returncode == 0, run.stderr
    assert _rows(run.stdout) == [row[:2] for row in _rows(PAGE.read_text())]


def test_the_page_has_all_rows_and_columns():
    """The table on the page has a row for each probe, and a column for each library."""
    head, _, *rows = _rows(PAGE.read_text())
    assert head[1:] == [peer.title for peer in PEERS]
    assert [row[0] for row in rows] == [*QUESTIONS]
    assert {len(row) for row in rows} == {len(head)}
