"""The rules that are not about time: whose a session is, what is known of it, how large it may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roomkey.clock import Ticks, ticks_of
from roomkey.core.intents import AS_IT_IS, CSRF, FLASHES, NOTHING, Intents, check_own_keys
from roomkey.core.loaded import Draft, Loaded
from roomkey.core.renewal import Clocks
from roomkey.errors import SessionDataError
from roomkey.stores.cookie import CookieStore
from roomkey.wire import codec
from roomkey.wire.codec import Facts
from roomkey.wire.facts import Proved, with_proof
from roomkey.wire.kinds import shown
from roomkey.wire.own import Encoder
from roomkey.wire.user_ids import text_of
from roomkey.wire.whose import Rights, UserKey, Whose

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from roomkey.config import SessionConfig

__all__ = ["Rules", "logs_in"]


class Rules:
    """Made once for a configuration, and never changed."""

    def __init__(self, config: SessionConfig) -> None:
        self.clock: Callable[[], float] = config.clock
        self.ticks: Ticks = ticks_of(config.clock)
        self.clocks: Clocks = Clocks(config)
        self.limit: int | None = config.max_sessions_per_user
        self.user_key: UserKey | None = config.user_key
        self.whose: Whose | None = None if config.user_key is None else Whose(config.user_key)
        self.plain_key: str | None = None if self.whose is None else self.whose.plain  # None: it takes more to find
        rights = Rights(self.whose, config.rotate_on)
        self.rights: Rights | None = rights if rights.are_watched else None
        self.carrier: str = config.carrier[0]  # what has the card, "cookie" or "header", for the texts of errors
        self.max_bytes: int = config.max_bytes
        self.seals: bool = config.seal
        self.renews_each: bool = isinstance(config.store, CookieStore)  # whether each save is a renewal too
        self.strict: bool = config.strict_types
        if config.encoders is not None:
            codec.keep({kind: Encoder(*functions) for kind, functions in config.encoders.items()})
        # Seconds that a session without a user lives. None: as any other.
        self.anonymous: float | None = config.anonymous_max_age

    def user_of(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is, as the text that stores keep; None: nobody's.

        Raises:
            SessionDataError: the function of `user_key` raised something.
        """
        if self.plain_key is not None:
            return text_of(data.get(self.plain_key))
        return None if self.whose is None else self.whose.text_in(data)

    def user_of_stored(self, data: dict[str, Any]) -> str | None:
        """As `user_of`, for what is stored. Raises DamagedData where the function of `user_key` raised something."""
        try:
            return self.user_of(data)
        except SessionDataError as error:
            raise codec.DamagedData from error

    def checked_user(self, data: dict[str, Any]) -> str | None:
        """Return whose session `data` is. Raises SessionDataError where the value of `user_key` is no ID."""
        return None if self.whose is None else self.whose.checked_in(data)

    def user_keys_in(self, data: dict[str, Any]) -> Collection[str]:
        """Return the keys that say whose session `data` is, where an assignment may not be what changed them."""
        return () if self.whose is None or self.plain_key is not None else self.whose.keys_in(data)

    def puts_user(self, data: dict[str, Any], put: Collection[str], was: str | None) -> bool:
        """Whether a request put into its session whose it is: a log-in, of the same user too.

        Args:
            data: what the session holds.
            put: the keys that were assigned.
            was: whose it was.
        """
        if self.whose is None:
            return False
        return not self.whose.roots.isdisjoint(put) or (self.plain_key is None and self.user_of(data) != was)

    def changes_rights(self, before: bytes, after: dict[str, Any]) -> bool:
        """Whether the session's ID is to change, though the user is the same. `before`: the session, encoded."""
        return self.rights is not None and self.rights.differ(codec.decode(before), after)

    def asked(self, before: bytes, after: dict[str, Any], intents: Intents) -> Intents:
        """Return what was asked of a session of the same user, with what follows from its content.

        Args:
            before: what is stored, encoded.
            after: what is to be stored.
            intents: what the request asked.
        """
        if self.rights is None or not before:
            return intents
        data = codec.decode(before)
        if not self.rights.differ(data, after):
            return intents
        # No grace: whoever knows the old ID must not get the new rights.
        proves = intents.reauthenticated or self.rights.logs_in(data, after)
        return intents._replace(rotate=0.0, reauthenticated=proves)

    def facts_after(
        self,
        now: float,
        facts: Facts,
        was: str | None,
        user: str | None,
        intents: Intents,
        *,
        relies_on: Facts | None = None,
    ) -> Facts:
        """Return the facts as they are to be saved.

        Args:
            now: the moment, in Unix seconds.
            facts: as they are.
            was: whose session this request loaded.
            user: whose it is now.
            intents: what the request asked.
            relies_on: the facts whose proofs this request may rely on; None: they are `facts`. A proof of its own gives
                it the session's new card, and must not take along what another request has proved.
        """
        if intents is NOTHING and user == was:
            return facts
        anew = user != was or intents.ended or logs_in(was, user, intents)
        proves = intents.reauthenticated or intents.cleared or intents.acting is not None
        if not (anew or proves) and intents.lifetime == AS_IT_IS:
            return facts
        authenticated_at, lifetime, proofs, acting = facts.authenticated_at, facts.lifetime, facts.proofs, facts.acting
        if anew:
            authenticated_at, lifetime, proofs = (None, self.anonymous, b"") if user is None else (now, None, b"")
        elif intents.cleared:  # nobody knows a user, and whoever had proved something has left
            authenticated_at, proofs = now if intents.reauthenticated else None, b""
        elif intents.reauthenticated:
            authenticated_at, proofs, acting = now, (relies_on or facts).proofs, (relies_on or facts).acting
        if anew or intents.cleared:
            acting = b""
        elif intents.acting is not None and (intents.acting or acting == (relies_on or facts).acting):
            acting = intents.acting  # it has ended, and no other has begun since
        if authenticated_at is not None:
            for said in intents.proofs:
                if said.user == user:
                    proofs = with_proof(proofs, Proved(said.level, said.method, now))
        if intents.lifetime != AS_IT_IS:
            lifetime = intents.lifetime
        return codec.make_facts(authenticated_at, lifetime, facts.marks, facts.trail, proofs, acting)

    def apart(self, draft: Draft, was: Loaded) -> Draft:
        """Return a draft whose content the handler does not hold: other tasks of the request may alter that.

        Its values are what they will be on the next request, so that this is the last look at what they are now.

        Args:
            draft: as it was taken from the session.
            was: the session as it was loaded.

        Raises:
            SessionDataError: a value cannot be stored.
        """
        if draft.encoded != was.encoded:
            codec.verify(draft.content, draft.encoded, strict=self.strict)
        return draft._replace(content=codec.decode(draft.encoded))

    def facts_of_new(self, facts: Facts, user: str | None) -> Facts:
        """Return the facts of a session that begins now. `facts`: without a life of its own for one without a user."""
        if self.anonymous is None or user is not None or facts.lifetime is not None:
            return facts
        return codec.make_facts(facts.authenticated_at, self.anonymous, facts.marks, facts.trail, facts.proofs)

    def is_remembered(self, facts: Facts, user: str | None) -> bool:
        """Whether `Session.remember` gave a session its lifetime, so that its cookie outlives the browser."""
        return facts.lifetime is not None and not (user is None and facts.lifetime == self.anonymous)

    def fitted(self, data: dict[str, Any], encoded: bytes) -> tuple[dict[str, Any], bytes]:
        """Return `data` and `encoded` as they may be saved: without the oldest flash messages, where they are too much.

        Raises:
            SessionDataError: as for `check`.
        """
        waiting = data.get(FLASHES) if len(encoded) > self.max_bytes else None
        if isinstance(waiting, list):
            check_own_keys(data)
            while waiting and len(encoded) > self.max_bytes:
                waiting = waiting[1:]
                data = {**data, FLASHES: waiting}
                encoded = codec.encode_like(data, encoded)
        self.check(data, encoded)
        return data, encoded

    def check(self, data: dict[str, Any], encoded: bytes) -> None:
        """Refuse `data`, encoded as `encoded`, if it may not be saved.

        Raises:
            SessionDataError: a value cannot be stored, or all of it is too large, or something else than Roomkey's is
                under one of Roomkey's own keys.
        """
        codec.verify(data, encoded, strict=self.strict)
        if FLASHES in data or CSRF in data:
            check_own_keys(data)
        if len(encoded) > self.max_bytes:
            largest = max(data, key=lambda key: len(codec.encode({key: data[key]})))
            raise SessionDataError(
                f"the session takes {len(encoded)} bytes and max_bytes is {self.max_bytes}; its largest key is "
                f"{shown(largest)}: keep large things in your database, and their IDs in the session"
            )


def logs_in(was: str | None, user: str | None, intents: Intents) -> bool:
    """Whether `user` is logged in by this request: another one than before, or anew, after a `clear`."""
    return user is not None and (user != was or intents.cleared)
