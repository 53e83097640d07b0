"""The command `roomkey`, as far as it works without the package click. The rest is in `roomkey.cli.commands`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and end it."""
    try:
        from roomkey.cli.commands import roomkey
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("Error: the roomkey command needs click: pip install 'roomkey[cli]'\n")
        raise SystemExit(2) from None
    roomkey(prog_name="roomkey")
