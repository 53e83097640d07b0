"""What every part of the benchmarks has in common: its report in Markdown, and its command line."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = [
    "NotInstalled",
    "Report",
    "Target",
    "lines",
    "machine",
    "produce",
    "progress",
    "row_of_targets",
    "run",
    "table",
    "verdict",
    "versions",
]


class NotInstalled(Exception):
    """A part needs a program that this machine does not have; the text says which one, and how to get it."""


@dataclass(frozen=True)
class Target:
    """A figure beside what was asked for. `at_least`: the figure should not be below the limit, instead of above."""

    what: str
    found: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        # Compared as it is printed: with two decimals.
        found = round(self.found, 2)
        return found >= self.limit if self.at_least else found <= self.limit


@dataclass
class Report:
    """What one part found.

    Attributes:
        name: its key in the JSON file.
        title: its heading.
        method: how it was measured, in Markdown.
        sections: headings, each with its Markdown.
        figures: the same for a program.
        targets: what was asked for; the report lists those that were missed.
        packages: the Python packages whose versions matter.
        programs: the versions of other programs, by name.
    """

    name: str
    title: str
    method: str
    sections: list[tuple[str, str]]
    figures: dict[str, Any]
    targets: list[Target] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    programs: dict[str, str] = field(default_factory=dict)


# --- a command line ---------------------------------------------------------------------------------------------------


def run(module: str, measure: Callable[[bool], Report], description: str) -> None:
    """Be the command line of one part: measure, print the report, and write the figures where that is asked for.

    Args:
        module: the name after `python -m`.
        measure: returns the report; is told whether to be quick.
        description: what the command does, for `--help`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    add_options(parser)
    options = parser.parse_args()
    produce([measure], options.quick, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every part takes."""
    parser.add_argument("--quick", action="store_true", help="fewer samples: sooner done, and noisier")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to FILE")


def produce(parts: Iterable[Callable[[bool], Report]], quick: bool, file: Path | None) -> None:
    """Measure the parts one after the other; print each report as soon as it is there, and the machine in the end."""
    logging.getLogger("roomkey").setLevel(logging.ERROR)  # it warns of a Redis that keeps no files
    packages, programs, figures = {"roomkey"}, dict[str, str](), dict[str, Any]()
    for measure in parts:
        try:
            report = measure(quick)
        except NotInstalled as error:
            print(f"{error}\n")
            continue
        finally:
            progress("")
        print(_text(report), end="\n\n", flush=True)
        packages |= report.packages
        programs |= report.programs
        figures[report.name] = {**report.figures, "targets": [asdict(one) | {"met": one.met} for one in report.targets]}
    found = {**programs, **versions(packages)}
    print("## Machine and versions", lines({**machine(), **found}), sep="\n\n")
    if file is not None:
        everything = {"machine": machine(), "versions": found, "quick": quick, "parts": figures}
        file.write_text(json.dumps(everything, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _text(report: Report) -> str:
    parts = [f"## {report.title}"]
    for heading, text in report.sections:
        parts += [f"### {heading}", text]
    if report.targets:
        parts += ["### Targets", verdict(report.targets)]
    return "\n\n".join([*parts, "### Method", report.method])


def progress(text: str) -> None:
    """Say what is under way, if a terminal is there to show it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


# --- Markdown ---------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in rows)


def lines(facts: dict[str, str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def row_of_targets(name: str, limits: Iterable[float | None]) -> list[str]:
    """Return a row of a table that holds what was asked for, and a dash where nothing was."""
    return [name, *("-" if limit is None else f"{limit:g}" for limit in limits)]


def verdict(targets: list[Target]) -> str:
    """Return how many targets are met, and a list of those that are not."""
    missed = {one.what: _limit(one) for one in targets if not one.met}
    text = f"{len(targets) - len(missed)} of {len(targets)} are met."
    return f"{text} These are missed:\n\n{lines(missed)}" if missed else text


def _limit(one: Target) -> str:
    return f"{one.found:.2f}, and should be at {'least' if one.at_least else 'most'} {one.limit:g}"


# --- the machine ------------------------------------------------------------------------------------------------------


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
