"""`python -m website`: builds the docs site into site/, and fails on whatever is wrong with it."""

import re
import subprocess
import sys
from pathlib import Path

from website import checks

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Build the site and check it. Returns the exit code."""
    site, docs, configuration = ROOT / "site", ROOT / "docs", ROOT / "mkdocs.yml"
    wrong = build(ROOT)
    if not wrong:
        wrong = [
            *checks.outside_references(site),
            *checks.dead_links(site),
            *checks.pages_not_in_the_navigation(docs, configuration),
            *checks.missing_names(site, docs, ROOT / "src"),
        ]
    print("\n".join(wrong) or f"The site is in {site.name}/: open {site.name}/index.html")
    return 1 if wrong else 0


def build(root: Path) -> list[str]:
    """Build the site from `mkdocs.yml` in a folder. Returns what the builder said, where it failed or warned."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", run.stdout + run.stderr)
    # The reader of docstrings only logs its warnings, each with its own name before it.
    return said.splitlines() if run.returncode != 0 or "griffe: " in said or "Warning" in said else []


if __name__ == "__main__":
    sys.exit(main())
