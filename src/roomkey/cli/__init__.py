"""The command `roomkey`, as far as it works without click and rich. The rest is in `roomkey.cli.commands`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of this process, and end it."""
    try:
        from roomkey.cli.commands import roomkey
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.stderr.write("Error: the roomkey command needs click and rich: pip install 'roomkey[cli]'\n")
        raise SystemExit(2) from None
    roomkey(prog_name="roomkey")
