"""Checks that asyncio runs here. Roomkey's stores, and tasks that wait for each other, need it."""

from __future__ import annotations

import sys

from roomkey.errors import ConfigurationError

__all__ = ["asyncio_is_missing", "needs_asyncio"]


def needs_asyncio(*, at_all: bool = False) -> None:
    """Raise ConfigurationError where `asyncio_is_missing`."""
    error = asyncio_is_missing(at_all=at_all)
    if error is not None:
        raise error


def asyncio_is_missing(*, at_all: bool = False) -> ConfigurationError | None:
    """Return what to raise where another library than asyncio runs this code; None: asyncio does.

    Args:
        at_all: also where nobody can say which library that is. A store in memory needs none.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return None
    trio = _is_trio()
    if not (trio or at_all):
        return None
    return ConfigurationError(
        f"Roomkey needs asyncio, and {'trio' if trio else 'another library'} runs this: have the server run the app in "
        "asyncio (hypercorn: --worker-class asyncio; anyio: backend='asyncio')"
    )


def _is_trio() -> bool:
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True
