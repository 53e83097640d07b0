"""`roomkey doctor`: looks at an app and its store, and reports each weakness with its fix and a page."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table

from roomkey.cli.checks import CHECKS
from roomkey.cli.checks.looked import Finding, Looked
from roomkey.cli.looking import look
from roomkey.cli.output import as_json as print_json
from roomkey.cli.output import failures, json_option

__all__ = ["doctor"]


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Which requests are made to.  [default: /]")
@click.option("--url", metavar="URL", help="The running site. It is asked too, to see what its proxies do.")
@click.option("--ignore", multiple=True, type=click.Choice(list(CHECKS)), metavar="NAME", help="A check to leave out.")
@json_option
def doctor(app: str, paths: tuple[str, ...], url: str | None, ignore: tuple[str, ...], as_json: bool) -> None:
    """Look at an app and its store, and report each weakness with its fix.

    The app is imported, here and in two fresh processes, and started here. It gets requests as from a visitor without
    a cookie: GET for each --path and for routes that are named like polls, and POST to a path that there is not. What
    sessions they begin, they end. Sessions in the store are read, and none is changed.

    Exit code 0: nothing was found. 1: weaknesses. 2: the app cannot be looked at.

    Example: roomkey doctor shop.main:app --url https://shop.example
    """
    with failures(), _Progress(app) as step:
        wrong = [path for path in paths if not path.startswith("/")]
        if wrong:
            raise click.UsageError(f"--path: {wrong[0]!r} does not begin with /")
        looked = look(app, paths or ("/",), url, step=step)
    findings, gaps = judged(looked, ignore)
    if as_json or not sys.stdout.isatty():
        print_json({"app": app, "findings": findings, "not_checked": gaps, "ignored": list(ignore)})
    else:
        _show(findings, gaps)
    if findings:
        raise SystemExit(1)


def judged(looked: Looked, ignore: tuple[str, ...] = ()) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Run the checks. Returns what they found, and what they could not look at."""
    findings, gaps = [], []
    for name, check in CHECKS.items():
        if name in ignore:
            continue
        for each in check.run(looked):
            if isinstance(each, Finding):
                findings.append({"name": name, "wrong": each.wrong, "fix": each.fix, "page": check.page})
            else:
                gaps.append({"name": name, "why": each.why})
    return findings, gaps


class _Progress:
    """Says in a terminal what is under way. It is called with the next step."""

    def __init__(self, app: str) -> None:
        self._status = Status(f"Looking at {app}", console=Console(stderr=True)) if sys.stderr.isatty() else None

    def __call__(self, what: str) -> None:
        if self._status is not None:
            self._status.update(what)

    def __enter__(self) -> _Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._status is not None:
            self._status.stop()


def _show(findings: list[dict[str, str]], gaps: list[dict[str, str]]) -> None:
    console = Console(highlight=False)
    if findings:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
        table.add_column("Check", no_wrap=True)
        table.add_column("What is wrong, and what to do", overflow="fold")
        for each in findings:
            text = f"{each['wrong']}\n{each['fix']}\n{each['page']}"
            table.add_row(each["name"], text.replace("[", "\\["))
        console.print(table)
    for gap in gaps:
        console.print(f"not checked: {gap['name']}: {gap['why']}", markup=False)
    said = "1 weakness" if len(findings) == 1 else f"{len(findings)} weaknesses"
    console.print(f"{said} found." if findings else "No weakness found.")
