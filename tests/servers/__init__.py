"""Real servers for the tests, each with files of its own, on a free port."""

import os

import pytest

__all__ = ["left_out", "skip_if_left_out"]


def left_out() -> list[str]:
    """Return the servers that TESTS_WITHOUT names, such as "mariadb,redis-tls".

    `make test` names those that the machine does not have and its user may not install. Without it, a test whose server
    is missing fails.
    """
    return os.environ.get("TESTS_WITHOUT", "").replace(",", " ").split()


def skip_if_left_out(server: str) -> None:
    """Skip the running test where its server is left out."""
    if server in left_out():
        pytest.skip(f"without {server}, as TESTS_WITHOUT says")
