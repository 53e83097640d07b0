"""`roomkey sessions`: which sessions there are, and how to end some, for the people who run the app.

Nothing here shows what a session holds. A session goes by its handle, its public name.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from roomkey.cli.finding import manager_from, manager_option
from roomkey.cli.output import ask_first, failures, json_option, progress, show_done, show_facts, show_rows
from roomkey.core.users import SessionInfo, Sessions
from roomkey.errors import ConfigurationError
from roomkey.stores.base import Watch

__all__ = ["sessions"]

_Answer = TypeVar("_Answer")

_MOST_LISTED = 100
_COLUMNS = {
    "user": "User",
    "last_used_at": "Last used",
    "expires_at": "Expires",
    "ip": "Address",
    "user_agent": "Client",
    "label": "Name",
    "handle": "Handle",
}
_USER = click.option("--user", metavar="ID", help="Whose sessions.")
_YES = click.option("--yes", is_flag=True, help="Do not ask first.")


@click.group()
def sessions() -> None:
    """List, count and end sessions.

    The sessions are those of an app (--app module:app), of a store (--store URL), or of what ROOMKEY_STORE says.
    """


@sessions.command("list")
@manager_option
@_USER
@click.option("--limit", default=_MOST_LISTED, show_default=True, help="How many at most, where no user is given.")
@json_option
def list_sessions(app: str | None, store: str | None, user: str | None, limit: int, as_json: bool) -> None:
    """List the sessions of a user, or some of everybody's.

    Example: roomkey sessions list --app shop.main:app --user 7
    """

    async def found(of: Sessions) -> list[SessionInfo]:
        if user is not None:
            return await of.of(user)
        some: list[SessionInfo] = []
        async for each in of.every():
            if len(some) >= limit:
                break
            some.append(each)
        return some

    rows = [_row(each) for each in _ask(app, store, found)]
    show_rows(rows, _COLUMNS, json_asked=as_json, empty="No sessions.")


@sessions.command("show")
@manager_option
@click.argument("handle")
@json_option
def show_session(app: str | None, store: str | None, handle: str, as_json: bool) -> None:
    """Show one session: whose it is, since when, and until when.

    Exit code 1 says that there is no such session.

    Example: roomkey sessions show --app shop.main:app HANDLE
    """
    found = _ask(app, store, lambda of: of.get(handle))
    if found is None:
        raise click.ClickException("there is no such session, or not any more")
    show_facts(_row(found), json_asked=as_json)


@sessions.command("count")
@manager_option
@_USER
@json_option
def count_sessions(app: str | None, store: str | None, user: str | None, as_json: bool) -> None:
    """Count the live sessions, and the users who have one. This reads every record.

    Example: roomkey sessions count --app shop.main:app
    """

    async def counted(of: Sessions) -> dict[str, int]:
        if user is not None:
            return {"sessions": len(await of.of(user))}
        seen: dict[str, str] = {}
        with progress("Counting sessions") as done:
            async for each in of.every():
                done(0 if each.handle in seen else 1)
                seen[each.handle] = each.user
        users = [each for each in seen.values() if each]
        return {"sessions": len(seen), "logged_in": len(users), "users": len(set(users))}

    show_facts(_ask(app, store, counted), json_asked=as_json)


@sessions.command("revoke")
@manager_option
@click.argument("handle", required=False)
@_USER
@_YES
@json_option
def revoke_sessions(
    app: str | None, store: str | None, handle: str | None, user: str | None, yes: bool, as_json: bool
) -> None:
    """End one session, by its handle, or all sessions of a user.

    Exit code 1 says that there is no such session.

    Example: roomkey sessions revoke --app shop.main:app --user 7
    """
    if (handle is None) is (user is None):
        raise click.UsageError("Give a handle, or --user.")
    if handle is not None:
        ask_first("End this session?", sure=yes)
        if not _ask(app, store, lambda of: of.revoke(handle)):
            raise click.ClickException("there is no such session, or not any more")
        ended = 1
    else:
        assert user is not None
        ask_first(f"End all sessions of user {user}?", sure=yes)
        ended = _ask(app, store, lambda of: of.revoke_all(user))
    show_done({"ended": ended}, f"ended: {ended}", json_asked=as_json)


@sessions.command("end-all")
@manager_option
@_YES
@json_option
def end_all(app: str | None, store: str | None, yes: bool, as_json: bool) -> None:
    """End every session of everybody, after a breach. Everybody has to log in again.

    Example: roomkey sessions end-all --app shop.main:app
    """
    ask_first("End every session of everybody?", sure=yes)
    _ask(app, store, lambda of: of.end_all())
    show_done({"ended": "all"}, "ended: all", json_asked=as_json)


def _ask(app: str | None, store: str | None, question: Callable[[Sessions], Awaitable[_Answer]]) -> _Answer:
    """Open the store, ask, and close it."""

    async def asked() -> _Answer:
        async with manager:
            return await question(manager.sessions)

    with failures():
        manager = manager_from(app, store)
        if getattr(manager.config.store, "never_waits", False):
            raise ConfigurationError(
                "store: memory:// is in the process of the app, where no command reaches it; a file "
                "(sqlite:///sessions.sqlite3) or a server can be looked into"
            )
        if isinstance(manager.config.store, Watch):
            manager.config.store.publish()  # so that what is open in apps with live=True hears of it
        return asyncio.run(asked())


def _row(info: SessionInfo) -> dict[str, Any]:
    return {
        "user": info.user or None,
        "created_at": _shown(info.created_at),
        "last_used_at": _shown(info.last_used_at),
        "expires_at": _shown(info.expires_at),
        "ip": info.ip,
        "user_agent": info.user_agent,
        "label": info.label,
        "handle": info.handle,
    }


def _shown(moment: dt.datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
