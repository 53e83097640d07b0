"""A look at the store of an app: whether it opens, its clock, and some of the sessions in it."""

from __future__ import annotations

from typing import Any

from roomkey.cli.checks.looked import Sample, StoreLook
from roomkey.core.loaded import Stored
from roomkey.errors import ConfigurationError, StoreUnavailable
from roomkey.manager import SessionManager
from roomkey.stores.base import Lifespan, Record, Scan
from roomkey.stores.cookie import CookieStore
from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.server_time import has_server, server_time
from roomkey.wire import codec
from roomkey.wire.whose import LOG_INS

__all__ = ["look_at_store"]

_MOST = 1000  # sessions that are looked at
_MOST_BATCHES = 100  # of keys: a Redis database may hold more of others than of ours


async def look_at_store(manager: SessionManager) -> StoreLook:
    """Open the store of a manager, and look at it. Its sessions are read, and none is changed."""
    store: Any = manager.config.store
    look = StoreLook(manager, is_local=True)
    if isinstance(store, CookieStore | MemoryStore):
        return look  # nothing of the running app's is here
    look = look._replace(is_local=not has_server(store))
    try:
        if isinstance(store, Lifespan):
            await store.open()
        look = look._replace(near_refused=await _near_refused(manager))
        clock = manager.config.clock
        before = clock()
        there = await server_time(store)
        if there is not None:
            # Asked for between two looks at our clock: it was within the second that both leave.
            ahead = there - before if there < before else max(0.0, there - clock())
            look = look._replace(ahead=ahead)
        return await _sampled(look, store)
    except ConfigurationError as error:
        return look._replace(not_ready=str(error))
    except StoreUnavailable as error:
        return look._replace(silent=str(error))
    except Exception as error:  # a custom store's own
        return look._replace(silent=f"{type(store).__name__} raised {type(error).__name__}")


async def _near_refused(manager: SessionManager) -> str:
    """Return why the store does not say what changes; empty: it does, or is not asked to."""
    if manager.near is None:
        return ""
    try:
        await manager.near.notices.open()
    except ConfigurationError as error:
        return str(error)
    finally:
        await manager.near.notices.close()
    return ""


async def _sampled(look: StoreLook, store: Any) -> StoreLook:
    if isinstance(store, Migrating):
        return look._replace(no_sample="to read the sessions of a Migrating store would move them")
    if not isinstance(store, Scan):
        return look._replace(no_sample=f"{type(store).__name__} cannot go through its sessions")
    sample = Sample(is_sealed=look.manager.config.seal)
    after = ""
    for _ in range(_MOST_BATCHES):
        found, after = await look.manager.registry.some(after)
        for key, record in found:
            sample = _counted(sample, look.manager, key, record)
        if not after or sample.seen >= _MOST:
            break
    return look._replace(sample=sample)


def _counted(sample: Sample, manager: SessionManager, key: str, record: Record) -> Sample:
    config, size = manager.config, len(record.data)
    if record.successor is not None:
        return sample  # a tombstone
    names = set(sample.unseen_log_ins)
    if record.user is None and config.user_key is not None and not config.seal:
        names |= _log_ins_in(manager, key, record) - {manager.registry.rules.plain_key}
    return sample._replace(
        seen=sample.seen + 1,
        largest=max(sample.largest, size),
        above_half=sample.above_half + (size > config.max_bytes / 2),
        unseen_log_ins=tuple(sorted(names)),
    )


def _log_ins_in(manager: SessionManager, key: str, record: Record) -> set[str]:
    """Return which well-known names of a log-in's key a session has."""
    try:
        _, data = manager.registry.opened_with_data(Stored(key, record, b""))
    except (codec.DamagedData, ConfigurationError):
        return set()
    return {name for name in LOG_INS & data.keys() if data[name]}
