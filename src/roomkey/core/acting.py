"""Somebody acts for a user: in a session of the user's, which stands in the place of the actor's own.

The browser keeps the card of the actor's session, whose facts name the user's one (`Facts.acting`). A loader hands out
that one then. So nobody has a card of it, and it is out of reach once the actor's session has ended. Where it has ended
itself, for whatever reason, the same card opens the actor's session again, as it was left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from roomkey.core.clients import client_of
from roomkey.core.intents import CSRF, Intents
from roomkey.core.loaded import Loaded
from roomkey.core.swaps import StoreCommitter
from roomkey.core.tasks import Tasks
from roomkey.errors import ConfigurationError, ImpersonationError, LoginTooOld, SessionDataError, SessionEnded
from roomkey.events import Created
from roomkey.stores.base import Record
from roomkey.wire import codec
from roomkey.wire.about import About, about_of
from roomkey.wire.keys import new_session_id, store_key
from roomkey.wire.user_ids import checked_text

if TYPE_CHECKING:
    from roomkey.core.registry import Registry

__all__ = ["check_actor", "check_draft", "impersonate", "stop"]


async def impersonate(transaction: Tasks, user: object, seconds: float) -> None:
    """Make the session in which the next requests act for a user. This request goes on as the actor's.

    Args:
        transaction: of the actor's session.
        user: for whom they act.
        seconds: for how long at most.

    Raises:
        ConfigurationError: there is no `user_key`, or it is a function, or nothing is kept on the server.
        ImpersonationError: somebody acts already, or `user` is who is logged in.
        LoginTooOld: the log-in is not saved yet, or another request has proved who the user is.
        SessionDataError: `user` is no user's ID.
        StoreUnavailable: the store did not do it.
    """
    await transaction.in_turn(lambda: _begin(transaction, user, seconds))


async def _begin(transaction: Tasks, user: object, seconds: float) -> None:
    registry, rules, at = _registry_of(transaction), transaction.rules, transaction.at
    if rules.whose is None:
        raise ConfigurationError("user_key: it is None in SessionConfig, so that nobody can act for a user")
    if transaction.actor is not None:
        raise ImpersonationError("impersonate: somebody acts for a user already; stop that first")
    text, actor = checked_text("user", user), transaction.present_user()
    if text is None:
        raise SessionDataError("user: None and an empty text are nobody; give an ID")
    if text == actor:
        raise ImpersonationError("impersonate: this user is who is logged in")
    if actor is None or at.user != actor or transaction.before_proof is not None:
        raise LoginTooOld("impersonate: this request has to come with a log-in of the actor's own")
    session, now, session_id = transaction.session, rules.clock(), new_session_id()
    key, secret = store_key(session_id), registry.envelope.secret_of(session_id)
    life = min(seconds, rules.clocks.idle_of(at.facts))  # nothing renews the actor's own session meanwhile
    encoded = codec.encode(rules.whose.content_for(user), codec.make_facts(None, life))
    peer = session._peer
    client = About() if peer is None else client_of(peer[0], session._sent)
    about = about_of(client._replace(actor=actor))
    record = Record(encoded, 1, now, now + life, text, about=about)
    await registry.store.create(key, replace(record, data=registry.envelope.close(record, key, secret)))
    registry.report(Created(key, text, actor))
    dict.pop(session, CSRF, None)
    session._accessed = session._changed = True
    session._intents = session._intents._replace(acting=bytes.fromhex(key) + secret)


async def stop(transaction: Tasks) -> None:
    """Have the request go on with the actor's own session, which gets a new ID.

    Raises:
        SessionEnded: that has ended.
        StoreUnavailable: the store does not answer, or whether the other one has ended cannot be known.
    """
    await transaction.in_turn(lambda: _stop(transaction))


async def _stop(transaction: Tasks) -> None:
    actor, at, session = transaction.actor, transaction.at, transaction.session
    if actor is None:
        return
    registry = _registry_of(transaction)
    if at.exists:
        await registry.end_found(at.stored, registry.current, "cleared")
    transaction.tried = ()
    own = await _own(registry, actor)
    if own is None:
        transaction.detach()
        transaction.may_begin = False
        raise SessionEnded("the session of whoever acted for the user has ended")
    transaction.at, transaction.actor, transaction.renews, transaction.before_proof = own, None, True, None
    transaction.meet(actor, own)
    transaction.lent = transaction.messages = None  # they are of the user's session
    dict.clear(session)
    dict.update(session, codec.decode(own.encoded))
    dict.pop(session, CSRF, None)
    session._accessed = session._changed = True
    session._put, session._intents = None, Intents(rotate=0.0, acting=b"")


async def check_actor(transaction: Tasks) -> None:
    """Make sure that whoever acts for the user is logged in still.

    Raises:
        SessionEnded: they are not.
        StoreUnavailable: that cannot be known.
    """
    actor = transaction.actor
    if actor is None:
        return

    async def check() -> None:
        if await _own(_registry_of(transaction), actor) is None:
            raise SessionEnded("the session of whoever acts for the user has ended")

    await transaction.in_turn(check)


def check_draft(transaction: Tasks, content: dict[str, object]) -> None:
    """Refuse a log-in in a session in which somebody acts for a user. Raises ImpersonationError."""
    if transaction.actor is None:
        return
    user = transaction.rules.user_of(content)
    if user is not None and (user != transaction.at.user or transaction.session._intents.logs_out):
        raise ImpersonationError("nobody logs in while somebody acts for a user; stop that first")


async def _own(registry: Registry, actor: Loaded) -> Loaded | None:
    """Return an actor's own session as it is now; None: it has ended."""
    found = await registry.current(actor.stored)
    return None if found is None else registry.opened(found)


def _registry_of(transaction: Tasks) -> Registry:
    if not isinstance(transaction.committer, StoreCommitter):
        raise ConfigurationError("store: cookie:// keeps nothing on the server, so that nobody can act for a user")
    return transaction.committer.registry
