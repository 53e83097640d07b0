"""Serves the shop on this machine until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from roomkey.demo.app import create_app, data_directory

__all__ = ["serve"]

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """A socket on `port`, or on the first free one of the 50 after it, or else on any. OSError: there is none."""
    for candidate in (*range(port, min(port + 50, 65536)), 0):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, candidate))
            sock.listen(128)
        except OSError:
            sock.close()
        else:
            return sock
    raise OSError(f"no free port on {HOST}")


def serve(port: int, store: str | None, key: str | None, say: Callable[[str, str], None]) -> None:
    """Serve the shop until Ctrl-C.

    Args:
        port: the first port to try.
        store: the URL of the store; None: an SQLite file in the shop's directory.
        key: the secret key; None: the one in the shop's directory, which is made at the first start.
        say: is called with the address, and with where the key is from.
    """
    directory = data_directory()
    key_file = directory / "secret-key"
    had_key = key_file.exists()
    app = create_app(directory, key=key, store=store)
    if key:
        about = "Key: ROOMKEY_SECRET_KEY."
    else:
        about = f"Key: {'from' if had_key else 'a new one was made, and is kept in'} {key_file}."
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
    with listen(port) as sock:
        say(f"http://{HOST}:{sock.getsockname()[1]}", about)
        try:
            uvicorn.Server(config).run(sockets=[sock])
        except KeyboardInterrupt:
            pass  # uvicorn has shut the app down, and raises the signal again
