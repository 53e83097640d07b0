"""What carries plans out: a store's committer, or that of the browsers' cookies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from roomkey.core.clients import Clients
from roomkey.core.loaded import Draft, Loaded
from roomkey.core.registry import Registry
from roomkey.core.reporting import Reporter
from roomkey.core.rules import Rules
from roomkey.core.secure import Secure
from roomkey.core.state import RequestState
from roomkey.core.tombstones import Way
from roomkey.core.visitors import Visitors, visitors_for
from roomkey.wire.whose import LOG_INS, option_for, says_something

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

    from roomkey.config import SessionConfig
    from roomkey.core.live import Live

__all__ = ["Committer"]


class Committer(ABC):
    """Commits the sessions of one configuration; made once.

    Args:
        config: the configuration.
        reporter: is told what happens.
    """

    secure: Secure  # whether the cookies that go out are `Secure`
    marks = False  # whether a write may stay unanswered, so that it has to be recognised later

    def __init__(self, config: SessionConfig, reporter: Reporter) -> None:
        self.config: SessionConfig = config
        self.reporter: Reporter = reporter
        self.registry: Registry = Registry(config, reporter)
        self.rules: Rules = self.registry.rules
        self.visitors: Visitors | None = visitors_for(config)
        self.live: Live | None = None  # None: WebSockets and streams do not hear of their session
        if config.live:
            from roomkey.core.live import Live  # here, because it needs asyncio, and most apps do without

            self.live = Live(self.registry, config.live_interval)
        self.clients: Clients | None = None
        if config.record_client:
            self.clients = Clients(config.country, config.on_client_changed, reporter.report, lambda: reporter.is_heard)

    def look_for_log_in(self, content: dict[str, Any], put: Collection[str]) -> None:
        """Say once where a session looks as if somebody had logged in, and `user_key` finds nobody.

        Args:
            content: what the session holds.
            put: the keys that the request assigned.

        Raises:
            SessionDataError: the function of `user_key` raised something.
        """
        whose = self.rules.whose
        if whose is None or self.rules.user_of(content) is not None:
            return
        for key in LOG_INS.intersection(put):
            if says_something(content.get(key)):
                self.reporter.warn_once(
                    f"log-in {key}",
                    "session[%r] was put into a session in which user_key (%s) finds nobody. If that logs somebody in, "
                    "the session ID is still the old one, and nobody can list or end that user's sessions: %s",
                    key,
                    whose.shown,
                    option_for(key, content[key]),
                )

    def clear_site(self, state: RequestState, was: Loaded, *, logs_out: bool) -> None:
        """Have the browser forget what it keeps of the site, where a user has logged out.

        Args:
            state: the request's.
            was: the session that it loaded.
            logs_out: whether it has logged out.
        """
        is_users = was.user is not None or self.rules.user_key is None
        if logs_out and is_users and self.config.clear_site_data and state.reply.is_open:
            state.reply.clears_site = True

    @property
    def may_wait(self) -> bool:
        """Whether a commit may wait for something."""
        return False

    @abstractmethod
    async def commit(self, state: RequestState, draft: Draft) -> None:
        """Do what `draft` asks, whatever others did meanwhile; says in `state` and its `reply` what came of it.

        Raises:
            SessionDataError: nothing was saved.
            ResponseStarted: nothing was saved.
            StoreUnavailable: the store did not acknowledge.
        """

    def start(self, state: RequestState, draft: Draft) -> Coroutine[Any, Any, None] | None:
        """As `commit`. None: it is done already. A coroutine: it does the rest."""
        return self.commit(state, draft)

    @abstractmethod
    async def latest(self, at: Loaded, way: Way | None = None) -> Loaded | None:
        """Return a session as it is now; None: it has ended, or is out of reach.

        `way` takes the keys that lead there, and what was found under each. Raises StoreUnavailable where it may live,
        and nothing leads there any more.
        """

    @abstractmethod
    async def confirm(self, state: RequestState) -> None:
        """Look again at an early decision to give a card, which may have died since. Raises StoreUnavailable."""

    def has_room(self, state: RequestState, encoded: bytes) -> bool:
        """Whether a session that is only to be renewed can be."""
        return True

    def must_finish(self, state: RequestState) -> bool:
        """Whether a commit goes on when its request is cancelled: done or not, nobody would know."""
        return False

    def run_to_its_end(self, work: Coroutine[Any, Any, bool]) -> Coroutine[Any, Any, bool]:
        """Run a commit that must not be cut off."""
        return work

    async def finish(self) -> None:  # noqa: B027  # most committers have nothing that goes on
        """Wait for what goes on by itself, before the store closes."""
