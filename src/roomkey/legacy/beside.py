"""Other libraries' cookies that a request brought when its user logged out: none of them logs in again."""

from __future__ import annotations

from functools import partial

from roomkey.core.loader import Loader, StoreLoader
from roomkey.core.session import Session
from roomkey.core.swaps import StoreCommitter
from roomkey.legacy.arrival import end_with
from roomkey.legacy.move_in import MoveIn
from roomkey.wire.cookies import find_cookies

__all__ = ["OldCookies", "move_in_to"]


class OldCookies:
    """The old cookies of a request whose session has ended.

    Args:
        loader: keeps the sessions.
        move_in: asks the readers.
        session: of the request.
    """

    def __init__(self, loader: StoreLoader, move_in: MoveIn, session: Session) -> None:
        self._loader, self._move_in, self._session = loader, move_in, session

    async def end(self, spare: str) -> None:
        """End what they opened, but for a session under the key `spare`, and note that they open nothing any more.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        for old in await self._move_in.find_all(partial(find_cookies, list(self._session._sent))):
            if await end_with(self._loader, old, spare):
                await old.forget()


def move_in_to(loader: Loader) -> MoveIn:
    """Return what asks the readers of a loader's configuration, and have its log-outs end what they find too.

    Raises:
        ConfigurationError: as for `MoveIn`.
    """
    committer = loader.committer
    move_in = MoveIn(committer.config.legacy, committer.config, loader.reporter.refused)
    if isinstance(loader, StoreLoader) and isinstance(committer, StoreCommitter):
        committer.steps.old_cookies = partial(OldCookies, loader, move_in)
    return move_in
