"""The store: whether it is ready, whether it keeps what it is given, and how large the sessions in it are."""

from __future__ import annotations

from collections.abc import Iterator

from roomkey.cli.checks.looked import Finding, Gap, Looked, check
from roomkey.stores.memory import MemoryStore

__all__ = ["clocks_apart", "near_not_told", "sessions_large", "store_forgets", "store_not_ready", "store_silent"]

_PAGE = "docs/howto-stores.md"
_APART = 1.0  # seconds that clocks may differ by


@check("store-not-ready", _PAGE)
def store_not_ready(looked: Looked) -> Iterator[Finding | Gap]:
    """The store cannot work: its table is missing or old, or it refuses the app's account."""
    for look in looked.stores:
        if look.not_ready:
            yield Finding(look.not_ready, "For a table that is missing or old, run `roomkey store create`.")


@check("store-silent", "docs/howto-operate.md#outages")
def store_silent(looked: Looked) -> Iterator[Finding | Gap]:
    """The store does not answer."""
    for look in looked.stores:
        if look.silent:
            yield Finding(look.silent, "Start it, or mend the URL or the network. `roomkey store ping` tries again.")


@check("store-forgets", _PAGE)
def store_forgets(looked: Looked) -> Iterator[Finding | Gap]:
    """The store may lose sessions: it throws them out, keeps them in memory only, or in one process."""
    for look in looked.stores:
        for warning in look.warnings:
            yield Finding(warning, "Change the setting on the server. Keep sessions apart from a cache.")
        if isinstance(look.manager.config.store, MemoryStore):
            yield Finding(
                "memory:// keeps sessions in one process. Another worker does not find them, and a restart loses them.",
                "Give store a file (sqlite:///sessions.sqlite3) or a server (redis://, postgresql://).",
            )


@check("clocks-apart", _PAGE)
def clocks_apart(looked: Looked) -> Iterator[Finding | Gap]:
    """The clocks of the store's server and of this machine differ by more than a second."""
    for look in looked.stores:
        if look.ahead is not None and abs(look.ahead) > _APART:
            where = "ahead of" if look.ahead > 0 else "behind"
            yield Finding(
                f"The clock of the store's server is {abs(look.ahead):.1f} seconds {where} the app's. Sessions end too "
                "early or too late, and a new one may count as over.",
                "Have all machines take their time from NTP.",
            )
        elif look.ahead is None and not (look.is_local or look.not_ready or look.silent):
            yield Gap("the store does not say what time it is there")


@check("near-not-told", "docs/howto-near.md")
def near_not_told(looked: Looked) -> Iterator[Finding | Gap]:
    """`near_cache` is on, and no session is served from memory for it: the store does not say what changes."""
    for look in looked.stores:
        if look.near_refused:
            yield Finding(look.near_refused, "Give the account that right, or leave near_cache out.")
        elif look.manager.config.near_cache is not None and look.manager.near is None:
            kind = type(look.manager.config.store).__name__
            yield Finding(
                f"near_cache is on, and {kind} has its sessions in memory already. It changes nothing.",
                "Leave near_cache out, or give store a server (redis://, postgresql://).",
            )


@check("sessions-large", "docs/howto-values.md")
def sessions_large(looked: Looked) -> Iterator[Finding | Gap]:
    """Sessions grow towards `max_bytes`, past which they cannot be saved."""
    for look in looked.stores:
        sample, most = look.sample, look.manager.config.max_bytes
        if sample is None:
            if look.no_sample:
                yield Gap(look.no_sample)
        elif sample.above_half:
            yield Finding(
                f"{sample.above_half:,} of {sample.seen:,} sessions are larger than half of max_bytes ({most:,}). The "
                f"largest has {sample.largest:,} bytes. One above max_bytes is an error, and is not saved.",
                "Keep in the session what names a thing, and the thing itself in your database. Look for lists that "
                "only grow.",
            )
