"""What a session needs of the rest, as protocols: so that nothing that it needs has to import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from roomkey.clock import Ticks
from roomkey.errors import StoreUnavailable
from roomkey.events import Misfit

if TYPE_CHECKING:
    from roomkey.core.lent import Lent
    from roomkey.core.loaded import Loaded
    from roomkey.core.messages import Messages
    from roomkey.core.renewal import Expiry
    from roomkey.core.users import Sessions
    from roomkey.stores.base import Record
    from roomkey.wire.facts import Proved
    from roomkey.wire.whose import UserKey

__all__ = ["Nearby", "Origin", "Transaction"]


class Transaction(Protocol):
    """What a session asks of its transaction."""

    lent: Lent | None  # what views of the session have handed out; None: nothing
    messages: Messages | None  # what the request has to do with messages; None: nothing

    @property
    def handle(self) -> str: ...
    @property
    def first_key(self) -> str: ...
    def present_user(self) -> str | None: ...
    @property
    def created_at(self) -> float: ...  # Unix seconds
    @property
    def expires_at(self) -> float: ...  # Unix seconds
    @property
    def authenticated_at(self) -> float | None: ...  # Unix seconds
    @property
    def proofs(self) -> Sequence[Proved]: ...  # what was said to `Session.reauthenticated`, the newest at the end
    @property
    def level(self) -> int: ...  # how sure it is who the user is; 0: nobody is logged in
    @property
    def actor(self) -> Loaded | None: ...  # the session of whoever acts for the user; None: nobody does
    @property
    def actor_id(self) -> Any: ...
    async def impersonate(self, user: object, seconds: float) -> None: ...
    async def stop_impersonating(self) -> None: ...
    @property
    def sessions(self) -> Sessions: ...
    @property
    def user_key(self) -> UserKey | None: ...
    @property
    def tried(self) -> Sequence[object]: ...  # writes that the store never answered
    @property
    def is_calm(self) -> bool: ...  # nothing is under way, unsure, owed to the browser, or to be moved in
    def now(self) -> float: ...  # Unix seconds
    # What CSRF tokens are bound to where no session is.
    def visitor(self, user: str | None, *, begins: bool) -> bytes | None: ...
    def is_modified(self) -> bool: ...
    def expiry(self, record: Record) -> Expiry: ...  # once the response has saved or renewed what is in `record`
    def live(self, method: str) -> Any: ...  # hears of the session's end; for this method of the session
    def note(self, error: StoreUnavailable | None) -> None: ...  # what became of the handler's last question
    async def save(self) -> None: ...
    async def refresh(self) -> None: ...


class Nearby(Protocol):
    """What a session may ask the store where it may be out of date."""

    async def refresh(self, session: Any) -> None:
        """As `Transaction.refresh`. Raises SessionEnded also where it had ended before the request began."""
        ...

    def ask_now(self, session: Any, what: str) -> None:
        """Have the session be what the store says, for the call `what`, which cannot be awaited.

        Raises ConfigurationError, StoreUnavailable.
        """
        ...

    def blocking(self, run: Any) -> Nearby:
        """Return the same, for a handler that may wait: `run` waits for a coroutine."""
        ...


class Origin(Protocol):
    """What loaded a session."""

    def open(self, session: Any) -> Transaction:
        """Return a new transaction for a session."""
        ...

    def report_misfit(self, misfit: Misfit) -> None:
        """Report a value that does not fit the shape that it was asked for in."""
        ...

    def check_lifetime(self, seconds: float) -> None:
        """Warn where a session is to be remembered for longer than it can live."""
        ...

    @property
    def ticks(self) -> Ticks: ...  # the clock
