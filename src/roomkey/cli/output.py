"""How commands show what they found: a table for people in a terminal, JSON where it is asked for or piped.

Much of it comes from browsers, or from whoever plays one: the name of a client, say. It is shown as text, and does
nothing to the terminal.

Leaves to others what is shown. Errors and questions go to the standard error output, so that a pipe gets data only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from roomkey.errors import ConfigurationError, RoomkeyError, SessionDataError

__all__ = ["as_json", "ask_first", "failures", "json_option", "progress", "show_done", "show_facts", "show_rows"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """Give a command the option `--json`, which is a parameter `as_json` of its function."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON. It is what a pipe gets in any case.")
    return option(command)


def as_json(value: object) -> None:
    """Print a value as JSON: moments as ISO 8601."""
    text = json.dumps(value, default=str, ensure_ascii=False, indent=2)
    click.echo("\n".join(_shown(line, lambda character: json.dumps(character)[1:-1]) for line in text.split("\n")))


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, json_asked: bool, empty: str) -> None:
    """Print rows as a table, or as a JSON list of objects.

    Args:
        rows: what was found, by field.
        columns: the fields that the table shows, and the heading of each.
        json_asked: whether JSON was asked for.
        empty: what the terminal says instead of a table without rows.
    """
    if json_asked or not sys.stdout.isatty():
        as_json([dict(row) for row in rows])
    elif not rows:
        click.echo(empty)
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in columns.values():
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(_text(row[name]) for name in columns))
        Console().print(table)


def show_facts(facts: Mapping[str, Any], *, json_asked: bool) -> None:
    """Print what was found of one thing, a fact a line, or as a JSON object."""
    if json_asked or not sys.stdout.isatty():
        as_json(dict(facts))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _text(value))
    Console().print(table)


def show_done(facts: Mapping[str, Any], line: str, *, json_asked: bool) -> None:
    """Print what a command has done: a line for people in a terminal, or else a JSON object."""
    if json_asked or not sys.stdout.isatty():
        as_json(dict(facts))
    else:
        click.echo(line)


def _text(value: object) -> Text:
    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:,.2f}")
    if isinstance(value, int):
        return Text(f"{value:,}")
    # Not `str`, which rich would take for markup.
    return Text(_shown(str(value), lambda character: character.encode("unicode_escape").decode("ascii")))


def _shown(text: str, escaped: Callable[[str], str]) -> str:
    """Return text with everything escaped that a terminal would obey, or that turns around what it shows."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else escaped(character) for character in text)


def ask_first(question: str, *, sure: bool) -> None:
    """Ask before something that cannot be undone.

    Args:
        question: what would happen.
        sure: whether `--yes` was given, so that nobody is asked.

    Raises:
        click.Abort: the answer was no.
        click.UsageError: nobody can be asked, for the input is no terminal.
    """
    if sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here. Say so with --yes.")
    click.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far a long piece of work is, on the standard error output where that is a terminal.

    Args:
        what: is being done.
        total: how much there is to do; None: nobody knows.

    Yields:
        What is called with the number of things that were done since the last call.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Make of the errors that users are to read what the command prints, with its exit code."""
    try:
        yield
    except (ConfigurationError, SessionDataError) as error:
        raise _failure(error, code=2) from error
    except RoomkeyError as error:
        raise _failure(error, code=1) from error


def _failure(error: Exception, *, code: int) -> click.ClickException:
    failure = click.ClickException(str(error))
    vars(failure)["exit_code"] = code  # click declares it for the class
    return failure
