"""One event loop's way to the server: what is sent in one round trip, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roomkey.stores.redis.connections import Connections
from roomkey.stores.redis.errors import BROKEN, is_named, unavailable
from roomkey.stores.redis.scripts import Command, pack
from roomkey.stores.sharing import RoundTrips

__all__ = ["Link"]

_REDIRECTIONS = 3  # times that a command follows its slot to another node

_Loaded = tuple[bytes | None, bytes | None]  # what is under a key, and the epoch


class Link:
    """What a store has in one event loop: connections, and the operations that share them.

    Args:
        connections: where connections come from.
        epoch: the key of the epoch.
        lanes: how many round trips with loads, and how many with writes, may be under way at once.
    """

    def __init__(self, connections: Connections, epoch: bytes, lanes: int) -> None:
        self.loads: RoundTrips[bytes, _Loaded] = RoundTrips(self._fetch, unavailable, lanes=lanes)
        self.writes: RoundTrips[Command, Any] = RoundTrips(self._do, unavailable, lanes=lanes)
        self._connections = connections
        self._epoch = epoch

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def terminate(self) -> None:
        """Do nothing: the sockets close with the objects."""

    async def _fetch(self, keys: list[bytes]) -> list[_Loaded | Exception]:
        command = pack((b"MGET", *keys, self._epoch))
        answers = await self._connections.exchange(command, 1)
        if isinstance(answers[0], Exception):
            answers = await self._fetch_again(command, answers)
            if isinstance(answers[0], Exception):
                return answers * len(keys)
        values: list[bytes | None] = answers[0]
        epoch = values.pop()
        return [(value, epoch) for value in values]

    async def _fetch_again(self, command: bytes, answers: list[Any]) -> list[Any]:
        answers = await self._follow([command], answers)
        if is_named(answers[0], *BROKEN) and not is_named(answers[0], "AuthenticationError", "BusyLoadingError"):
            # To read twice harms nobody.
            answers = await self._follow([command], await self._connections.exchange(command, 1))
        return answers

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
        unknown = [at for at, answer in enumerate(answers) if is_named(answer, "NoScriptError")]
        return await self._again(answers, unknown, lambda at: commands[at].packed(with_source=True))

    async def _follow(self, packed: list[bytes], answers: list[Any]) -> list[Any]:
        """Send those again that another node of the cluster has to do."""
        for _ in range(_REDIRECTIONS):
            astray = [at for at, answer in enumerate(answers) if is_named(answer, "MovedError")]
            if not astray or not await self._connections.follow():
                break
            answers = await self._again(answers, astray, packed.__getitem__)
        return answers

    async def _again(self, answers: list[Any], which: list[int], command: Callable[[int], bytes]) -> list[Any]:
        """Send once more those that were not run; the other answers stand, whatever happens to these."""
        if which:
            again = await self._connections.exchange(b"".join([command(at) for at in which]), len(which))
            for at, answer in zip(which, again, strict=True):
                answers[at] = answer
        return answers
