"""`roomkey serve-demo`: starts the example shop on this machine."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from roomkey.cli.output import failures

__all__ = ["serve_demo"]

_NEEDED = {"ravyn", "lilya", "jinja2", "sqlalchemy", "aiosqlite", "uvicorn"}


@click.command("serve-demo")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="The first port to try.")
@click.option("--store", metavar="URL", envvar="ROOMKEY_STORE", help="Where sessions are.  [default: an SQLite file]")
def serve_demo(port: int, store: str | None) -> None:
    """Start a shop that shows what Roomkey does, and print its address. Ctrl-C stops it.

    Only this machine reaches it. Its data is in the folder demo-data, or in the one that ROOMKEY_DEMO_DATA names. The
    secret key is ROOMKEY_SECRET_KEY. Without it, one is made at the first start and kept in that folder.

    Exit code 0: it was stopped. 1: it cannot start now. 2: something is not installed, or an option is wrong.

    Example: roomkey serve-demo --port 8080 --store redis://localhost
    """
    import os

    try:
        import aiosqlite  # noqa: F401  # SQLAlchemy imports it when the shop is open, which is late

        from roomkey.demo.serve import serve
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if (cause.name or "").partition(".")[0] not in _NEEDED:
            raise
        failure = click.ClickException(f"the demo needs {cause.name}: pip install 'roomkey[demo]'")
        vars(failure)["exit_code"] = 2
        raise failure from error
    with failures():
        try:
            serve(port, store, os.environ.get("ROOMKEY_SECRET_KEY") or None, _say)
        except OSError as error:
            raise click.ClickException(str(error)) from error
    Console().print("Closed for the night.")


def _say(address: str, about_key: str) -> None:
    lines = [f"Roomkey Hotel shop: {address}", "Log in as guest / key. Ctrl-C stops it.", about_key]
    for line in lines:
        Console(soft_wrap=True).print(Text(line, style="bold" if address in line else ""))
