"""One event loop's way to a cluster: each node has round trips of its own, and what has moved is followed.

A node that does not answer keeps nobody waiting who needs another one.
"""

from __future__ import annotations

from typing import Any

from roomkey.stores.redis.cluster import Clustered
from roomkey.stores.redis.errors import NotSent, is_named, unavailable
from roomkey.stores.redis.link import Asking, Closes, Loaded, ServerLink, may_be_asked_again, those
from roomkey.stores.redis.places import epoch_beside, slot_of
from roomkey.stores.redis.scripts import Command, pack

__all__ = ["ClusterLink"]

_REDIRECTIONS = 3  # times that a command follows its slot to another node
_ASKING = pack((b"ASKING",))


class _Node:
    """Connections to one node, as those to a server."""

    def __init__(self, cluster: Clustered, name: str) -> None:
        self._cluster, self._name = cluster, name

    @property
    def has_connected(self) -> bool:
        return self._cluster.has_connected

    async def exchange(self, commands: bytes, count: int) -> list[Any]:
        return await self._cluster.exchange(self._name, commands, count)

    def single(self) -> Any:
        return self._cluster.single(self._name)

    async def close(self) -> None:
        pass


class _NodeLink(ServerLink):
    """The link to one node. What has moved meanwhile is asked for where it is."""

    def __init__(self, cluster: Clustered, name: str, lanes: int, where: str) -> None:
        super().__init__(_Node(cluster, name), b"", lanes, where)
        self._cluster, self._name = cluster, name

    async def _fetch(self, names: list[bytes]) -> list[Loaded | Exception]:
        # Only keys of one slot can be read by one command. All of these commands are one round trip.
        groups: dict[bytes, list[bytes]] = {}
        for name in names:
            groups.setdefault(epoch_beside(name), []).append(name)
        packed = [pack((b"MGET", *records, epoch)) for epoch, records in groups.items()]
        answers = await self._follow(packed, await self._send(packed))
        for at, epoch in enumerate(groups):
            if may_be_asked_again(answers[at]):
                (answers[at],) = await self._send_anew(epoch, [packed[at]])
        found: dict[bytes, Loaded | Exception] = {}
        for (epoch, records), answer in zip(groups.items(), answers, strict=True):
            if is_named(answer, "TryAgainError"):
                answer = await self._fetch_singly([*records, epoch])
            for name in records:
                found[name] = answer if isinstance(answer, Exception) else (None, None)
            if not isinstance(answer, Exception):
                found.update((name, (value, answer[-1])) for name, value in zip(records, answer[:-1], strict=True))
        return [found[name] for name in names]

    async def _fetch_singly(self, names: list[bytes]) -> Any:
        """Return what is under each key: each asked for alone, while a cluster moves them one by one.

        The epoch is asked for last: a record that was wiped meanwhile has another one.
        """
        values: list[Any] = []
        for some in (names[:-1], names[-1:]):
            packed = [pack((b"GET", name)) for name in some]
            values += await self._send_anew(names[-1], packed)
        return next((value for value in values if isinstance(value, Exception)), values)

    async def _send_anew(self, epoch: bytes, packed: list[bytes]) -> list[Any]:
        """Send loads of one slot to the node that has it by now."""
        try:
            node = await self._cluster.node_of(slot_of(epoch))
        except NotSent as error:
            return [error] * len(packed)
        return await self._follow(packed, await self._send_to(node, packed, asks=False))

    async def _follow(self, packed: list[bytes], answers: list[Any]) -> list[Any]:
        """Send those again that another node of the cluster has to do."""
        for _ in range(_REDIRECTIONS):
            astray = those(answers, "MovedError")
            asked = [at for at in those(answers, "AskError") if at not in astray]  # the one is a kind of the other
            if not astray and not asked:
                break
            by_node: dict[tuple[str, bool], list[int]] = {}
            for at in (*astray, *asked):
                node = self._place_in(answers[at])
                by_node.setdefault((node, at in asked), []).append(at)
                if at not in asked:
                    self._cluster.note_moved(answers[at].slot_id, node)
            for (node, asks), here in by_node.items():
                again = await self._send_to(node, [packed[at] for at in here], asks=asks)
                for at, answer in zip(here, again, strict=True):
                    answers[at] = answer
        return answers

    def _place_in(self, answer: Any) -> str:
        """Return the node that an answer names. One that names no host means the one that has answered."""
        return self._cluster.named(answer.host or self._name.rpartition(":")[0], answer.port)

    async def _send_to(self, node: str, packed: list[bytes], *, asks: bool) -> list[Any]:
        """Send what was not run to another node. `asks`: its slot moves there; asking is for one command at a time."""
        if not asks:
            return await self._cluster.exchange(node, b"".join(packed), len(packed))
        commands = b"".join(_ASKING + each for each in packed)
        return (await self._cluster.exchange(node, commands, 2 * len(packed)))[1::2]


class ClusterLink:
    """The link to a cluster.

    Args:
        cluster: where connections come from.
        lanes: how many round trips with loads, and how many with writes, may be under way at once with each node.
        where: the address that the app gave, for people; empty: not known.
    """

    def __init__(self, cluster: Clustered, lanes: int, where: str = "") -> None:
        self._cluster = cluster
        self._lanes = lanes
        self._where = where
        self._nodes: dict[str, _NodeLink] = {}
        self.tracking: Closes | None = None
        self.loads: _Loads = _Loads(self)
        self.writes: _Writes = _Writes(self)

    @property
    def has_connected(self) -> bool:
        """See `Link`."""
        return self._cluster.has_connected

    async def primaries(self) -> dict[str, Asking]:
        """See `Link`. Raises StoreUnavailable."""
        try:
            return {name: self.node(name).writes for name in await self._cluster.primaries()}
        except NotSent as error:
            raise unavailable(error, self._where) from error

    async def shape(self) -> tuple[dict[str, str], bool]:
        """Return which slots each node says that it has, and whether any are moving. Raises StoreUnavailable."""
        try:
            claims = {name: await self._cluster.claims(name) for name in await self._cluster.primaries()}
        except NotSent as error:
            raise unavailable(error, self._where) from error
        return claims, any("[" in claim for claim in claims.values())

    def node(self, name: str) -> _NodeLink:
        """Return the link to a node."""
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _NodeLink(self._cluster, name, self._lanes, self._where)
        return node

    async def at(self, name: bytes) -> _NodeLink:
        """Return the link to the node that has the slot of a key. Raises StoreUnavailable."""
        try:
            return self.node(await self._cluster.node_of(slot_of(name)))
        except NotSent as error:
            raise unavailable(error, self._where) from error

    async def close(self) -> None:
        """See `Link`."""
        if self.tracking is not None:
            await self.tracking.close()
        await self._cluster.close()

    def terminate(self) -> None:
        """Do nothing: the sockets close with the objects."""


class _Loads:
    def __init__(self, link: ClusterLink) -> None:
        self._link = link

    async def ask(self, item: bytes) -> Loaded:
        return await (await self._link.at(item)).loads.ask(item)


class _Writes:
    def __init__(self, link: ClusterLink) -> None:
        self._link = link

    async def ask(self, item: Command) -> Any:
        return await (await self._link.at(item.args[0 if item.script else 1])).writes.ask(item)
