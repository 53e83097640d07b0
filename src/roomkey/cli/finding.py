"""Which sessions a command is about: those of an app, of a store's URL, or of what the environment says.

An app is imported and started, and what it made of its configuration is taken. So every framework is understood alike,
and the command sees what the app sees. Secrets are read, and never shown.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import click

from roomkey.cli.running import running
from roomkey.config import SessionConfig
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager, managers

__all__ = ["from_app", "imported", "made_by", "manager_from", "manager_option", "must_be_there", "store_url"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_NOTHING = (
    "nothing says which sessions: give --app module:app, or --store URL, or set ROOMKEY_STORE (and the other variables "
    "that the app reads with SessionConfig.from_env)"
)


def manager_option(command: _Command) -> _Command:
    """Give a command the options that name the sessions. Its function takes `app` and `store`, for `manager_from`."""
    app = click.option("--app", metavar="MODULE:APP", help="The app whose sessions these are. It is imported.")
    store = click.option("--store", metavar="URL", help="The store, where no app is given.  [env: ROOMKEY_STORE]")
    return app(store(command))


def manager_from(app: str | None, store: str | None) -> SessionManager:
    """Return the session manager that the options name.

    Raises:
        ConfigurationError: they name none, both ways are given, or the store is an SQLite file that does not exist.
    """
    if app is not None and store is not None:
        raise ConfigurationError("--app and --store: give one of them; the app says which store it has")
    if app is not None:
        return from_app(app)
    if store is None and "ROOMKEY_STORE" not in os.environ:
        raise ConfigurationError(_NOTHING)
    must_be_there(store_url(store))
    # The list of sessions needs no key, but a configuration does.
    options: dict[str, Any] = {} if "ROOMKEY_SECRET_KEY" in os.environ else {"secret_key": secrets.token_bytes(32)}
    if store is not None:
        options["store"] = store
    return SessionManager(SessionConfig.from_env(**options))


def from_app(name: str) -> SessionManager:
    """Return the session manager of an app.

    Args:
        name: `module:app`, or `module:make_app` with a function that makes it.

    Raises:
        ConfigurationError: there is no such app, it has no session manager, or more than one.
    """
    before = set(map(id, managers()))
    app = imported(name)
    found = made_by(app, before)
    if not found:
        asyncio.run(_start(app))
        found = made_by(app, before)
    if not found:
        raise ConfigurationError(f"{name}: it has no Roomkey sessions, as far as its start shows")
    if len({id(manager.config.store) for manager in found}) > 1:
        raise ConfigurationError(f"{name}: it has {len(found)} session managers; give --store URL instead")
    _kept.append(app)
    return found[0]


def store_url(given: str | None) -> str:
    """Return the URL of the store that a command about stores is to use. Raises ConfigurationError: there is none."""
    url = given or os.environ.get("ROOMKEY_STORE")
    if not url:
        raise ConfigurationError("nothing says which store: give its URL, or set ROOMKEY_STORE")
    return url


def must_be_there(url: str) -> None:
    """Check that the file of an SQLite URL exists: opening the store would make an empty one.

    Raises:
        ConfigurationError: it does not. Other URLs name no file, and pass.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        name = unquote(rest[1:])
    elif scheme.startswith("sqlalchemy+sqlite"):
        name = rest.partition("?")[0][1:]
    else:
        return
    # SQLite keeps `:memory:` in memory, and takes URIs of its own (`file:`).
    if name and not name.startswith((":memory:", "file:")) and not Path(name).exists():
        raise ConfigurationError(f"store: the file {name} does not exist; check the name in the URL")


_kept: list[object] = []  # apps, whose managers would go with them


def made_by(app: Any, before: set[int]) -> list[SessionManager]:
    """Return the session managers that an app made.

    Args:
        app: the app. Frameworks make their middleware, and it its manager, when the app starts.
        before: the `id` of each manager that was there before the app was imported.
    """
    # Flask's or Quart's interface makes its manager when it is asked for.
    lazy = getattr(getattr(app, "session_interface", None), "app", None)
    _kept.append(getattr(lazy, "manager", None))
    return [manager for manager in managers() if id(manager) not in before]


async def _start(app: Any) -> None:
    """Start an app and stop it again. Raises ConfigurationError where it does not start."""
    async with running(app) as run:
        if run.error is not None:
            raise ConfigurationError(f"the app does not start: {run.error}") from run.error


def imported(name: str) -> Any:
    """Import an app.

    Args:
        name: `module:app`, or `module:make_app` with a function that makes it.

    Raises:
        ConfigurationError: there is no such app, or its code fails.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ConfigurationError(
            f"{name}: it takes module:app, such as shop.main:app or, of Django, mysite.wsgi:application"
        )
    here = os.getcwd()
    if here not in sys.path:  # as uvicorn and gunicorn do
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _not_imported(name, error) from error
        raise ConfigurationError(f"{name}: there is no module {error.name} here ({here})") from error
    except (Exception, SystemExit) as error:  # of the app's own code
        raise _not_imported(name, error) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ConfigurationError(f"{name}: {module} has no {path}") from error
    try:
        return found() if _is_factory(found) else found
    except (Exception, SystemExit) as error:  # of the app's own code
        raise _not_imported(name, error) from error


def _not_imported(name: str, error: BaseException) -> ConfigurationError:
    """Say what went wrong in the app's own code, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return ConfigurationError(
        f"{name}: to import it fails with {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
    )


def _is_factory(found: Any) -> bool:
    """Whether this is a function that can be called without arguments, which makes the app."""
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found):
        return False
    parameters = inspect.signature(found).parameters.values()
    return all(each.default is not each.empty or each.kind is each.VAR_KEYWORD for each in parameters)
