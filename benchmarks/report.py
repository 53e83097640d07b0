"""What every report of a benchmark is made of: tables, the machine, the versions."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["lines", "machine", "progress", "table", "versions"]


def progress(text: str) -> None:
    """Say what is under way, to who sits before a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in rows)


def lines(facts: dict[str, str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def machine() -> dict[str, str]:
    """Return what this machine is."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "CPU": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed."""
    found = {}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed (run from source)"
    return found
