"""A session is ended while others go on saving it: by a swap, as any change, and within a time limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from roomkey.core.loaded import Stored
from roomkey.core.turns import Deadline
from roomkey.stores.base import Conflict

__all__ = ["Find", "Swap", "Wait", "end_found"]

Find = Callable[[Stored], Awaitable[Stored | None]]  # where a session is now, as it was found last; None: nowhere
Swap = Callable[[Stored], Awaitable[None]]  # ends a session as it was read; raises Conflict
Wait = Callable[[Stored | None, Stored | None, int], Awaitable[int]]  # `Registry.wait_for_progress`

_TRIED_AT_ONCE = 16  # versions; as many connections may be in use meanwhile


async def end_found(stored: Stored | None, find: Find, swap: Swap, wait: Wait, limit: float | None) -> bool:
    """End a session, and again where another request is first. Returns whether it was this call that ended it.

    Args:
        stored: where it was found; None: nowhere.
        find: finds it again.
        swap: ends it.
        wait: waits where the store answers with what is not the newest.
        limit: for how many seconds others may be first; None: the store does not wait, and nobody can be in between.

    Raises:
        StoreUnavailable: as `find`, `swap` and `wait`; or others save it all the time.
    """
    deadline = None if limit is None else Deadline(limit, "ended")
    refusals = advance = 0
    while stored is not None:
        try:
            if deadline is None or advance == 0:
                await swap(stored)
            else:
                await _swap_ahead(stored, advance, swap)
            return True
        except Conflict:
            if deadline is not None:
                deadline.check()
        last, stored = stored, await find(stored)
        refusals = await wait(last, stored, refusals)
        has_moved = stored is None or stored.key != last.key
        advance = 0 if stored is None or has_moved else stored.record.version - last.record.version
    return False


async def _swap_ahead(stored: Stored, advance: int, swap: Swap) -> None:
    """End a session whose writers are nearer to the store: what was read is old before a swap arrives.

    So several swaps go out together, each for one of the versions that it may have by then. At most one is done, and
    none where the session has a new ID.

    Args:
        stored: as it was read last.
        advance: by how many versions it went on between the last two reads. A swap arrives in half of that time.
        swap: ends it.

    Raises:
        Conflict: it had none of these versions, or has moved on or ended.
    """
    import asyncio

    version = stored.record.version + max(0, (advance - _TRIED_AT_ONCE) // 2)
    likely = [replace(stored.record, version=version + each) for each in range(_TRIED_AT_ONCE)]
    answers = await asyncio.gather(*(swap(stored._replace(record=record)) for record in likely), return_exceptions=True)
    if None in answers:
        return
    errors = [each for each in answers if isinstance(each, BaseException)]
    raise next((each for each in errors if not isinstance(each, Conflict)), errors[0])
