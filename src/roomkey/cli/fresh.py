"""The secret keys of an app as fingerprints, from a process of its own.

`python -m roomkey.cli.fresh module:app` imports the app as a worker does. A random text on its standard input goes into
each fingerprint, so that it says nothing to others, and nothing later on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from roomkey.cli.finding import imported, made_by
from roomkey.cli.running import running
from roomkey.errors import WeakSecretWarning
from roomkey.manager import SessionManager, managers

__all__ = ["fingerprints", "from_processes"]

_PATIENCE = 120.0  # seconds that a process may take


def fingerprints(made: Iterable[SessionManager], salt: str) -> tuple[str, ...]:
    """Return a fingerprint for each secret key."""
    return tuple(
        hmac.new(salt.encode(), value, hashlib.sha256).hexdigest()
        for manager in made
        for value in manager.config.secret_key.values
    )


def from_processes(name: str, count: int) -> tuple[str, list[tuple[str, ...]]]:
    """Import an app in fresh processes. Returns the salt, and the fingerprints of each process that could do it."""
    salt = secrets.token_hex(32)
    here = os.pathsep.join(each for each in sys.path if each)
    started = [
        subprocess.Popen(  # noqa: S603  # this Python, and the app that was asked about
            [sys.executable, "-m", "roomkey.cli.fresh", name],
            env={**os.environ, "PYTHONPATH": here},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(count)
    ]
    for process in started:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(salt + "\n")
            process.stdin.flush()
    found = []
    for process in started:
        try:
            said, _ = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            continue
        with contextlib.suppress(ValueError):
            found.append(tuple(json.loads(said.rpartition("roomkey:")[2])))
    return salt, found


async def _seen(app: Any, before: set[int]) -> list[SessionManager]:
    found = made_by(app, before)
    if not found:
        async with running(app):
            found = made_by(app, before)
    return found


def _main() -> None:
    salt = sys.stdin.readline().strip()
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # what the app prints is none of ours
        warnings.simplefilter("ignore", WeakSecretWarning)
        before = set(map(id, managers()))
        app = imported(sys.argv[1])
        found = asyncio.run(_seen(app, before))
        out.write(f"roomkey:{json.dumps(fingerprints(found, salt))}")


if __name__ == "__main__":
    _main()
