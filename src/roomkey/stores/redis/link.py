"""One event loop's way to a server: what is sent in one round trip, and what is sent again.

`RoundTrips` says which operations share a round trip. `cluster_link` has the same for a cluster.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from roomkey.stores.redis.errors import BROKEN, NotACluster, is_named, unavailable
from roomkey.stores.redis.scripts import Command, pack
from roomkey.stores.sharing import RoundTrips

__all__ = ["Asking", "Closes", "Exchanging", "Link", "Loaded", "ServerLink", "may_be_asked_again", "those"]

Loaded = tuple[bytes | None, bytes | None]  # what is under a key, and the epoch


class _Loads(Protocol):
    async def ask(self, item: bytes, /) -> Loaded: ...


class Asking(Protocol):
    async def ask(self, item: Command, /) -> Any: ...


class Closes(Protocol):
    async def close(self) -> None: ...


class Link(Protocol):
    """What a store has in one event loop."""

    @property
    def loads(self) -> _Loads:
        """Takes names of records."""
        ...

    @property
    def writes(self) -> Asking:
        """Takes commands and calls of scripts."""
        ...

    @property
    def has_connected(self) -> bool:
        """Whether a connection was ever made."""
        ...

    async def primaries(self) -> dict[str, Asking]:
        """Return every server that has sessions, by its name: for commands that are for a server and not for a key."""
        ...

    async def close(self) -> None:
        """Close the connections, and what says here that records have changed."""
        ...

    @property
    def tracking(self) -> Closes | None:
        """What says in this event loop that records have changed; None: nothing does."""
        ...

    @tracking.setter
    def tracking(self, tracking: Closes, /) -> None: ...

    def terminate(self) -> None: ...


class Exchanging(Protocol):
    """Where connections come from: see `connections.Connections`."""

    @property
    def has_connected(self) -> bool: ...
    async def exchange(self, commands: bytes, count: int) -> list[Any]: ...
    def single(self) -> Any: ...
    async def close(self) -> None: ...


class ServerLink:
    """The link to one server.

    Args:
        connections: where connections come from.
        epoch: the name of the only epoch.
        lanes: how many round trips with loads, and how many with writes, may be under way at once.
        where: the server's address, for people; empty: not known.
    """

    def __init__(self, connections: Exchanging, epoch: bytes, lanes: int, where: str = "") -> None:
        failure = partial(unavailable, where=where)
        self.loads: RoundTrips[bytes, Loaded] = RoundTrips(self._fetch, failure, lanes=lanes)
        self.writes: RoundTrips[Command, Any] = RoundTrips(self._do, failure, lanes=lanes)
        self.tracking: Closes | None = None
        self._connections = connections
        self._epoch = epoch

    @property
    def has_connected(self) -> bool:
        """See `Link`."""
        return self._connections.has_connected

    async def primaries(self) -> dict[str, Asking]:
        """See `Link`."""
        return {"": self.writes}

    def single(self) -> Any:
        """Return one more connection, which is not connected yet."""
        return self._connections.single()

    async def close(self) -> None:
        """See `Link`."""
        if self.tracking is not None:
            await self.tracking.close()
        await self._connections.close()

    def terminate(self) -> None:
        """Do nothing: the sockets close with the objects."""

    async def _fetch(self, names: list[bytes]) -> list[Loaded | Exception]:
        command = pack((b"MGET", *names, self._epoch))
        answers = await self._connections.exchange(command, 1)
        if isinstance(answers[0], Exception):
            if may_be_asked_again(answers[0]):
                answers = await self._connections.exchange(command, 1)
            if isinstance(answers[0], Exception):
                return await self._follow([command], answers) * len(names)
        values: list[bytes | None] = answers[0]
        epoch = values.pop()
        return [(value, epoch) for value in values]

    async def _do(self, commands: list[Command]) -> list[Any]:
        packed = [command.packed() for command in commands]
        answers = await self._connections.exchange(packed[0] if len(packed) == 1 else b"".join(packed), len(packed))
        for answer in answers:
            if isinstance(answer, Exception):
                return await self._do_again(commands, packed, answers)
        return answers

    async def _do_again(self, commands: list[Command], packed: list[bytes], answers: list[Any]) -> list[Any]:
        answers = await self._follow(packed, answers)
        # The server knows scripts by name until it restarts; one that it does not know was not run.
        unknown = those(answers, "NoScriptError")
        if unknown:
            for at in unknown:
                packed[at] = commands[at].packed(with_source=True)
            again = await self._send([packed[at] for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
            answers = await self._follow(packed, answers)
        return answers

    async def _send(self, packed: list[bytes]) -> list[Any]:
        return await self._connections.exchange(b"".join(packed), len(packed))

    async def _follow(self, packed: list[bytes], answers: list[Any]) -> list[Any]:
        """Send those again that another server has to do; here there is none."""
        return [NotACluster() if is_named(answer, "AskError") else answer for answer in answers]


def those(answers: list[Any], name: str) -> list[int]:
    """Return the places of the answers that are such an error."""
    return [at for at, answer in enumerate(answers) if is_named(answer, name)]


def may_be_asked_again(answer: Any) -> bool:
    """Whether a load failed with its connection. To read twice harms nobody."""
    return is_named(answer, *BROKEN) and not is_named(answer, "AuthenticationError", "BusyLoadingError")
