"""One event loop's way to the server: what is sent in one round trip, and what is sent again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roomkey.stores.redis.connections import Connections
from roomkey.stores.redis.errors import BROKEN, NotSent, is_named, unavailable
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
        (answer,) = await self._exchange([command])
        if isinstance(answer, Exception):
            if is_named(answer, *BROKEN) and not is_named(answer, "AuthenticationError", "BusyLoadingError"):
                (answer,) = await self._exchange([command])  # reading twice harms nobody
            if isinstance(answer, Exception):
                return [answer] * len(keys)
        epoch = answer.pop()
        return [(value, epoch) for value in answer]

    async def _do(self, commands: list[Command]) -> list[Any]:
        answers = await self._exchange([command.packed() for command in commands])
        # The server knows scripts by name until it restarts; one that it does not know was not run.
        unknown = [at for at, answer in enumerate(answers) if is_named(answer, "NoScriptError")]
        return await self._again(answers, unknown, lambda at: commands[at].packed(with_source=True))

    async def _exchange(self, commands: list[bytes]) -> list[Any]:
        """Send commands that the server answers in order.

        Returns:
            Of each the answer, or the exception that stands for an error or a lost answer.
        """
        answers = await self._once(commands)
        for _ in range(_REDIRECTIONS):
            astray = [at for at, answer in enumerate(answers) if is_named(answer, "MovedError")]
            if not astray or not await self._connections.follow():
                break
            answers = await self._again(answers, astray, commands.__getitem__)
        return answers

    async def _again(self, answers: list[Any], which: list[int], command: Callable[[int], bytes]) -> list[Any]:
        """Send once more those that were not run; the other answers stand, whatever happens to these."""
        if which:
            again = await self._once([command(at) for at in which])
            for at, answer in zip(which, again, strict=True):
                answers[at] = answer
        return answers

    async def _once(self, commands: list[bytes]) -> list[Any]:
        try:
            return await self._connections.exchange(b"".join(commands), len(commands))
        except NotSent as error:
            return [error] * len(commands)
