"""One event loop's way to the server: what is sent in one round trip, and what is sent again."""

from __future__ import annotations

from functools import partial
from typing import Any

from roomkey.stores.redis.connections import Connections
from roomkey.stores.redis.errors import BROKEN, is_named, unavailable
from roomkey.stores.redis.scripts import Command, pack
from roomkey.stores.sharing import RoundTrips

__all__ = ["Link"]

_REDIRECTIONS = 3  # times that a command follows its slot to another node
_ASKING = pack((b"ASKING",))

_Loaded = tuple[bytes | None, bytes | None]  # what is under a key, and the epoch


class Link:
    """What a store has in one event loop: connections, and the operations that share them.

    Args:
        connections: where connections come from.
        epoch: the key of the epoch.
        lanes: how many round trips with loads, and how many with writes, may be under way at once.
        where: the server's address, for people; empty: not known.
    """

    def __init__(self, connections: Connections, epoch: bytes, lanes: int, where: str = "") -> None:
        failure = partial(unavailable, where=where)
        self.loads: RoundTrips[bytes, _Loaded] = RoundTrips(self._fetch, failure, lanes=lanes)
        self.writes: RoundTrips[Command, Any] = RoundTrips(self._do, failure, lanes=lanes)
        self._connections = connections
        self._epoch = epoch

    @property
    def has_connected(self) -> bool:
        """Whether a connection was ever made."""
        return self._connections.has_connected

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    def terminate(self) -> None:
        """Do nothing: the sockets close with the objects."""

    async def _fetch(self, keys: list[bytes]) -> list[_Loaded | Exception]:
        command = pack((b"MGET", *keys, self._epoch))
        answers = await self._connections.exchange(command, 1)
        if isinstance(answers[0], Exception):
            answers = await self._fetch_again(keys, command, answers)
            if isinstance(answers[0], Exception):
                return answers * len(keys)
        values: list[bytes | None] = answers[0]
        epoch = values.pop()
        return [(value, epoch) for value in values]

    async def _fetch_again(self, keys: list[bytes], command: bytes, answers: list[Any]) -> list[Any]:
        answers = await self._follow([command], answers)
        if is_named(answers[0], "TryAgainError"):
            return [await self._fetch_singly(keys)]
        if is_named(answers[0], *BROKEN) and not is_named(answers[0], "AuthenticationError", "BusyLoadingError"):
            # To read twice harms nobody.
            answers = await self._follow([command], await self._connections.exchange(command, 1))
        return answers

    async def _fetch_singly(self, keys: list[bytes]) -> Any:
        """Return what is under each key, and the epoch: each asked for alone, while a cluster moves them one by one.

        The epoch is asked for last: a record that was wiped meanwhile has another one.
        """
        values: list[Any] = []
        for some in (keys, [self._epoch]):
            packed = [pack((b"GET", key)) for key in some]
            values += await self._follow(packed, await self._connections.exchange(b"".join(packed), len(packed)))
        return next((value for value in values if isinstance(value, Exception)), values)

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
        unknown = _those(answers, "NoScriptError")
        if unknown:
            for at in unknown:
                packed[at] = commands[at].packed(with_source=True)
            answers = await self._follow(packed, await self._again(packed, answers, unknown))
        return answers

    async def _follow(self, packed: list[bytes], answers: list[Any]) -> list[Any]:
        """Send those again that another node of the cluster has to do."""
        for _ in range(_REDIRECTIONS):
            astray, asked = _those(answers, "MovedError"), _those(answers, "AskError")
            if astray and await self._connections.follow():
                answers = await self._again(packed, answers, astray)
            elif asked:  # the slot moves, and these keys are not here, or not any more
                node = answers[asked[0]].node_addr
                answers = await self._again(packed, answers, asked, node)
            else:
                break
        return answers

    async def _again(
        self, packed: list[bytes], answers: list[Any], which: list[int], node: tuple[str, int] | None = None
    ) -> list[Any]:
        """Send once more those that were not run; the other answers stand, whatever happens to these.

        Args:
            packed: all commands.
            answers: all answers so far.
            which: of them to send again.
            node: the address of the node to which the slot moves; None: the node that has it.
        """
        commands = [packed[at] for at in which]
        if node is None:
            again = await self._connections.exchange(b"".join(commands), len(which))
        else:
            # Asking is for one command at a time.
            answered = await self._connections.exchange_at(
                node, b"".join(_ASKING + c for c in commands), 2 * len(which)
            )
            again = answered[1::2]
        for at, answer in zip(which, again, strict=True):
            answers[at] = answer
        return answers


def _those(answers: list[Any], name: str) -> list[int]:
    """Return the places of the answers that are such an error."""
    return [at for at, answer in enumerate(answers) if is_named(answer, name)]
