"""What the command `roomkey` does, for a person or a deployment, and not for the app.

Exit codes: 0 means done. 1: it cannot be done now (the server is down), or what was asked for is not there. 2: it
cannot be done in this way (a wrong URL or option, or no right to do it). What went wrong is on the standard error
output, and what was done is on the standard output.
"""

from __future__ import annotations

import secrets

import click

from roomkey.cli.demo import serve_demo
from roomkey.cli.doctor import doctor
from roomkey.cli.sessions import sessions
from roomkey.cli.store import store

__all__ = ["roomkey"]

_KEY_BYTES = 32  # as many as a signature has


@click.group()
@click.version_option(package_name="roomkey", message="roomkey %(version)s")
def roomkey() -> None:
    """Roomkey: server-side sessions."""


@roomkey.command()
@click.option("--env", is_flag=True, help="Print it as a line for a .env file.")
def keygen(env: bool) -> None:
    """Print a new secret key, for secret_key or the environment variable ROOMKEY_SECRET_KEY.

    It is 32 bytes from the system's random source, as text.

    Example: roomkey keygen --env >> .env
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    click.echo(f"ROOMKEY_SECRET_KEY={key}" if env else key)


roomkey.add_command(doctor)
roomkey.add_command(sessions)
roomkey.add_command(store)
roomkey.add_command(serve_demo)
