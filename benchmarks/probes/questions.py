"""One probe for each row of the table. Each asks a served app, and returns the text of the cell."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable

import httpx

from benchmarks.probes.deeds import KINDS
from benchmarks.probes.running import Served

__all__ = ["QUESTIONS", "Probe"]

Probe = Callable[[Served], Awaitable[str]]

_AT_ONCE = 20  # requests
_LONG = 20.0  # seconds to wait for an answer while the store is down
# What a stranger could send as an ID, in the form of each library's own.
_INVENTED = ["0123456789abcdef" * 2, "0123456789abcdef" * 4, "abcdefghijklmnopqrstuvwxyz012345", "A" * 43]


async def log_out_is_final(served: Served) -> str:
    """A slow request begins before a log-out and ends after it."""
    card = await served.card("/enter/ann")
    (slow,) = await served.hold(["/slow/late"], card)
    await served.good("/logout/-", card)
    await served.good("/open/-")
    late = (await slow).card
    for each in {card, late} - {None, "", "null"}:
        if (await served.session(str(each))).get("user_id") == "ann":
            return "no"
    return "yes"


async def writes_survive(served: Served) -> str:
    """Requests read one session at the same time, and then each writes a key of its own."""
    card = await served.card("/enter/ann")
    tasks = await served.hold([f"/slow/key{number}" for number in range(_AT_ONCE)], card)
    await served.good("/open/-")
    answers = await asyncio.gather(*tasks)
    if {answer.status for answer in answers} != {200}:
        raise RuntimeError(f"{served.peer.title} refuses some of the writes: {served.log}")
    cards = [answer.card for answer in answers]
    last = next((each for each in reversed(cards) if each), card)
    kept = sum(key.startswith("key") for key in await served.session(last))
    return "yes" if kept == _AT_ONCE else f"no: {kept} of {_AT_ONCE}"


async def unknown_id_is_refused(served: Served) -> str:
    """A browser brings an invented ID and writes. Then somebody else brings the same ID."""
    for invented in _INVENTED:
        await served.good("/write/secret", invented)
        if "secret" in await served.session(invented):
            return "no"
    return "yes"


async def id_changes(served: Served) -> str:
    """A visitor has a session and logs in: first by an assignment alone, and then as the library says."""
    visitor = await served.card("/write/cart")
    if _is_readable(visitor):
        return "no ID: the cookie has the data"
    if await served.card("/login/ann", visitor) != visitor:
        return "yes" + await _left_behind(served, visitor)
    call = (await served.good("/about/-")).page["login"]
    visitor = await served.card("/write/cart")
    if await served.card("/enter/ann", visitor) == visitor:
        return "no"
    return f"with {call}" + await _left_behind(served, visitor)


async def copied_cookie_is_refused(served: Served) -> str:
    """A cookie is copied before the log-out, and used after it."""
    card = await served.card("/enter/ann")
    await served.good("/logout/-", card)
    return "no" if "user_id" in await served.session(card) else "yes"


async def sessions_are_listed(served: Served) -> str:
    """Ann logs in twice and Bob once. Ann's sessions are listed and ended."""
    how = (await served.good("/about/-")).page["list"]
    if how is None:
        return "no"
    first, second, other = [await served.card(f"/enter/{user}") for user in ("zoe", "zoe", "bob")]
    listed = (await served.good("/list/zoe")).page["sessions"]
    await served.good("/end/zoe")
    left = ["user_id" in await served.session(card) for card in (first, second, other)]
    return f"yes, by {how}" if listed == 2 and left == [False, False, True] else "no"


async def outage_is_a_503(served: Served) -> str:
    """Redis stops to answer while a user is logged in. This is the last probe of an app."""
    if served.peer.keeps == "the cookie":
        return "has no store"
    card = await served.card("/enter/ann")
    served.redis.pause()
    began = time.monotonic()
    try:
        status = (await served.ask("/show/-", card, _LONG)).status
    except httpx.TimeoutException:
        return f"no answer in {_LONG:.0f} s"
    finally:
        served.redis.resume()
    took = f"after {time.monotonic() - began:.0f} s"
    return f"yes, {took}" if status == 503 else f"{status}, {took}"


async def visit_sets_no_cookie(served: Served) -> str:
    """A browser without a cookie looks at a page that reads the session."""
    return "yes" if (await served.good("/show/-")).card is None else "no"


async def reading_sets_no_cookie(served: Served) -> str:
    """A user who is logged in looks at a page that reads the session."""
    card = await served.card("/enter/ann")
    return "yes" if (await served.good("/show/-", card)).card is None else "no"


async def types_are_kept(served: Served) -> str:
    """A value is put into the session, and is read by the next request."""
    cards = {}
    for kind in KINDS:
        answer = await served.ask(f"/keep/{kind}")
        if answer.status == 200 and answer.card:
            cards[kind] = answer.card
    kept = await _kept(served, cards)
    if served.peer.has_cache:
        served.empty_redis()
        if await _kept(served, cards) != kept:
            return f"{kept} while in the cache, then {await _kept(served, cards)}"
    return kept


async def _kept(served: Served, cards: dict[str, str]) -> str:
    """Return the kinds of value that are what they were, as text."""
    kept = [kind for kind, card in cards.items() if (await served.ask(f"/kept/{kind}", card)).page.get("same")]
    return "all" if len(kept) == len(KINDS) else ", ".join(kept) or "none"


async def _left_behind(served: Served, visitor: str) -> str:
    """Return what there is to say of the ID from before the log-in."""
    left = await served.session(visitor)
    if "user_id" in left:
        return ", but the old ID opens the new session"
    return ", but the old ID still opens the old session" if "cart" in left else ""


def _is_readable(card: str) -> bool:
    """Return whether the cookie itself has the visitor's data."""
    first = card.partition(".")[0]
    try:
        return b"cart" in base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))
    except ValueError:
        return False


QUESTIONS: dict[str, Probe] = {
    "A log-out is final, also against a slow request": log_out_is_final,
    f"{_AT_ONCE} concurrent writes all survive": writes_survive,
    "An ID that the server never issued opens nothing": unknown_id_is_refused,
    "The ID changes at a log-in": id_changes,
    "A copied cookie is refused after a log-out": copied_cookie_is_refused,
    "A user's sessions can be listed and ended": sessions_are_listed,
    "An anonymous visit sets no cookie": visit_sets_no_cookie,
    "A page that only reads sets no cookie": reading_sets_no_cookie,
    "Values keep their type": types_are_kept,
    "A store that hangs is a 503 in time": outage_is_a_503,
}
"""The rows of the table, in their order. The outage comes last: it leaves requests behind."""
