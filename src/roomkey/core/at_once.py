"""The commits that most requests need, where the store answers without waiting: without a transaction.

A save of other content and nothing else, and a new session. `roomkey.core.plan` says what either stores. Whatever is
more than that, or does not work at once, is left to the session's transaction.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from roomkey.core.intents import CSRF, NOTHING
from roomkey.core.loaded import CURRENT, NOWHERE, Attempt, Loaded, completed
from roomkey.core.plan import new_record, saved_record
from roomkey.core.session import Session
from roomkey.core.swaps import StoreCommitter
from roomkey.core.transaction import Transaction
from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.events import Created
from roomkey.stores.base import Conflict, Record
from roomkey.wire import codec
from roomkey.wire.codec import NO_FACTS
from roomkey.wire.cookies import CookieWriter, Headers, protect_from_caches, vary_on_cookie
from roomkey.wire.keys import new_session_id, store_key
from roomkey.wire.whose import LOG_INS

__all__ = ["AtOnce"]


class AtOnce:
    """Of one configuration.

    Args:
        committer: does the same with a transaction.
        writer: writes the cookie.
    """

    def __init__(self, committer: StoreCommitter, writer: CookieWriter) -> None:
        self._committer, self._rules, self._guard = committer, committer.rules, committer.store
        self._store, self._keyring, self._writer = committer.store.store, committer.keyring, writer
        self._secure = committer.secure
        self._cookie_start = f"{committer.config.session_cookie}=".encode("ascii")

    def commit(self, session: Session, headers: Headers) -> bool:
        """Commit a session, and put what the response owes the browser into its headers.

        Returns:
            Whether it was done. If not, nothing was.

        Raises:
            StoreUnavailable: the store did not acknowledge.
        """
        if session._transaction is not None or session._intents is not NOTHING or self._guard.is_patched:
            return False
        content = dict(dict.items(session))
        if not content:
            return False
        put = session._put
        try:
            if put is not None and not LOG_INS.isdisjoint(put):
                self._committer.look_for_log_in(content, put)
            if session._loaded is NOWHERE:
                return self._begin(session, content, headers)
            return self._save(session, content, headers)
        except SessionDataError:
            return False  # the transaction says it
        except Conflict:
            Transaction(self._committer, session).is_behind = True
            return False

    def _save(self, session: Session, content: dict[str, Any], headers: Headers) -> bool:
        at, rules = session._loaded, self._rules
        key, old, secret, before, owner, session_id, stale = (*at[:4], *at[5:]) if type(at) is Loaded else at
        if not (rules.user_of(content) == owner == old.user) or rules.ticks.time() >= session._fresh_until:
            return False
        if rules.rights is not None and rules.changes_rights(before, content):
            return False
        present = self._guard.load_now(key)
        if type(present) is Record and present.version != old.version:
            raise Conflict  # known before anything is encoded
        encoded = codec.encode_like(content, before)
        if encoded != before:
            record = saved_record(rules, old, content, encoded, old.expires_at)
            after = (key, record, secret, encoded, owner, session_id, stale)
            self._swap(session, after, self._store.update(key, record, version=old.version))
        self._vary(headers)
        return True

    def _begin(self, session: Session, content: dict[str, Any], headers: Headers) -> bool:
        if CSRF in content or self._committer.registry.is_purge_due:
            return False
        rules = self._rules
        now, user = rules.ticks.time(), rules.checked_user(content)
        facts = rules.facts_of_new(NO_FACTS, None) if user is None else codec.make_facts(now, None)
        encoded = codec.encode(content, facts)
        rules.check(content, encoded)
        record = new_record(rules, now, encoded, facts, user, b"")
        session_id = new_session_id()
        key = store_key(session_id)
        after = (key, record, b"", encoded, user, session_id, CURRENT)
        self._swap(session, after, self._store.create(key, record))
        session._fresh_until = rules.clocks.fresh_until(record, facts)
        if self._committer.reporter.is_heard:
            self._committer.reporter.report(Created(key, user))
        self._vary(headers)
        protect_from_caches(headers)
        visitors = self._committer.visitors
        if user is not None and visitors is not None:
            headers.append(visitors.taken_back)
        seconds = rules.clocks.end_of(now, record.expires_at) - now
        secure = self._secure.of(session)
        card = self._keyring.sign(session_id, secure=secure)
        headers.append(self._writer.give(card, seconds, secure=secure))
        return True

    def _vary(self, headers: Headers) -> None:
        if vary_on_cookie(headers, self._cookie_start):
            self._committer.reporter.warn_of_cookie(self._committer.config.session_cookie)

    def _swap(self, session: Session, after: tuple[Any, ...], operation: Coroutine[Any, Any, None]) -> None:
        try:
            rest = self._guard.start_change(operation)
        except (Conflict, ConfigurationError, SessionDataError):
            raise
        except BaseException:
            # Whether it was done is not known. The transaction finds out, if anything else is saved.
            unsure = Transaction(self._committer, session)
            unsure.tried = (self._attempt(session, completed(after)),)
            raise
        assert rest is None, "a store that says never_waits has waited"
        session._loaded, session._changed, session._put = after, False, None

    def _attempt(self, session: Session, after: Loaded) -> Attempt:
        over = session._at.stored if session._at.exists else None
        return Attempt(after, NOTHING, session._put or frozenset(), b"", False, over, after.encoded)
