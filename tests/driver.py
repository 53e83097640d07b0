"""Drives the core as an adaptor would, and shows what it decided: no ASGI, no HTTP."""

from __future__ import annotations

from functools import partial

from roomkey.core.session import Session
from roomkey.manager import SessionManager


class Driver:
    """One configuration's manager, and its parts."""

    def __init__(self, config, **options):
        self.manager = config if isinstance(config, SessionManager) else SessionManager(config, **options)
        self.config = self.manager.config
        self.registry = self.manager.registry
        self.store, self.envelope = self.registry.store, self.registry.envelope
        self.clock = self.config.clock

    @property
    def refused(self):
        return self.manager.refused

    @property
    def keyring(self):
        return self.manager._loader.keyring

    @property
    def sealed(self):
        return self.manager._loader.cards

    def anonymous(self):
        """Return the transaction of a request that brought no card."""
        return self._transaction(self.manager._loader.anonymous())

    async def arrive(self, cards, cookies=None):
        """Return the transaction of a request with these cards; `cookies`: the values of other cookies, by name."""
        manager, incoming = self.manager, self.manager._incoming
        otherwise = None
        if incoming._move_in is not None and cookies is not None:
            headers = [(b"cookie", name + b"=" + value) for name, values in cookies.items() for value in values]
            otherwise = partial(incoming._arrive, incoming._move_in, headers)
        answer = manager._loader.load(cards, otherwise)
        return self._transaction(answer if isinstance(answer, Session) else await answer)

    def _transaction(self, session):
        return Transacting(self.manager.transaction(session))


class Transacting:
    """A transaction, with what the tests look at."""

    def __init__(self, transaction):
        object.__setattr__(self, "transaction", transaction)

    def __getattr__(self, name):
        return getattr(self.transaction, name)

    def __setattr__(self, name, value):
        if name == "cookie_possible":
            assert value is False
            self.transaction.reply.close()
        elif name == "client":
            self.transaction.session._peer = (None if value[0] is None else (value[0], 0),)
            self.transaction.session._sent = [] if value[1] is None else [(b"user-agent", value[1].encode("latin-1"))]
        else:
            setattr(self.transaction, name, value)

    @property
    def record(self):
        return self.transaction.at.record if self.transaction.at.exists else None

    @property
    def key(self):
        return self.transaction.at.key

    @property
    def user(self):
        return self.transaction.at.user

    @property
    def session_id(self):
        return self.transaction.at.session_id

    @property
    def facts(self):
        return self.transaction.at.facts

    @property
    def found(self):
        return self.transaction.moving

    @property
    def cookie(self):
        return self.transaction.reply.cookie

    @property
    def card(self):
        return self.transaction.reply.card

    async def answer(self):
        """Do what an adaptor does when the response starts; return what becomes of the cookie."""
        await self.transaction.respond(200, is_error=False)
        return self.cookie


def driver_of(app):
    """Return the driver of a middleware's manager."""
    return Driver(app.manager)
