"""Connections to the nodes of a cluster, and the map that says which node has which slot.

Nodes are named by their address, as the driver names them. The driver makes the connections, and finds the cluster at
first. After that the map is our own. The driver's is renewed by closing the connections to all nodes, and an answer
that is lost with them may be that of a write which was done.

A node that is down makes its own slots unknown. The others are asked for a new map, and serve their sessions meanwhile.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple

from roomkey.stores.redis.connections import Connection, converse, is_spent, part, revive
from roomkey.stores.redis.errors import NotSent, SlotNotCovered, SlotNotFound
from roomkey.stores.redis.scripts import pack

__all__ = ["Clustered"]

_PATIENCE_FINDING = 0.5  # seconds that a cluster may take to say where our slot is
_BETWEEN_MAPS = 0.05  # seconds between two questions for a map, which is some work for the server
_ASKED_AT_ONCE = 3  # nodes that are asked for a map
_MAP = pack((b"CLUSTER", b"SLOTS"))
_NODES = pack((b"CLUSTER", b"NODES"))


class _Range(NamedTuple):
    """Slots that one node has."""

    first: int
    last: int
    node: str


class Clustered:
    """Connections to the nodes of one cluster.

    Args:
        client: the driver's.
        make: makes another one from the URL. None: it is the app's own client, which is not ours to replace or close.
    """

    def __init__(self, client: Any, make: Callable[[], Any] | None = None) -> None:
        self.has_connected: bool = False
        self._client = client
        self._make = make
        self._map: list[_Range] = []
        self._moved: dict[int, str] = {}  # what nodes have said of single slots since the map was made
        self._doubted: set[str] = set()  # nodes that failed since then, or may be replicas by now
        self._mapping: asyncio.Task[Exception | None] | None = None
        self._mapped_at = self._answered_at = float("-inf")  # on the event loop's clock
        self._new_nodes: dict[str, Any] = {}  # which the driver does not know: they got their first slot lately
        self._closing: set[asyncio.Task[None]] = set()

    # --- the map --------------------------------------------------------------------------------------------------

    async def node_of(self, slot: int) -> str:
        """Return which node has a slot. Raises NotSent: that cannot be found out."""
        node = self._moved.get(slot) or self._mapped(slot)
        if node is None or node in self._doubted:
            await self._find_out()
            node = self._moved.get(slot) or self._mapped(slot)
            if node is None:
                raise NotSent from SlotNotCovered()
        return node

    def _mapped(self, slot: int) -> str | None:
        at = bisect_right(self._map, (slot, 1 << 16)) - 1
        return self._map[at].node if at >= 0 and slot <= self._map[at].last else None

    async def primaries(self) -> list[str]:
        """Return all nodes that have slots, as the cluster says now. Raises NotSent."""
        await self._find_out()
        return sorted({each.node for each in self._map})

    async def claims(self, node: str) -> str:
        """Return which slots a node says that it has, and which move from or to it; empty: it is no primary.

        Raises:
            NotSent: it does not say.
        """
        (answer,) = await self.exchange(node, _NODES, 1)
        if isinstance(answer, Exception):
            raise NotSent from answer
        # <id> <address> <flags> <primary> <ping> <pong> <epoch> <link> <slot> ...
        for line in answer.decode(errors="replace").splitlines():
            fields = line.split()
            if "myself" in fields[2] and "master" in fields[2]:
                return " ".join(fields[8:])
        return ""

    def note_moved(self, slot: int, node: str) -> None:
        """Note that a slot is on another node: a node has said so."""
        self._moved[slot] = node
        self._doubted.discard(node)

    def doubt(self, node: str) -> None:
        """Have the map made anew before this node is asked again."""
        self._doubted.add(node)

    async def _find_out(self) -> None:
        """Make a new map. Whoever needs one meanwhile waits for the same. Raises NotSent."""
        if self._mapping is None or self._mapping.done():
            self._mapping = asyncio.get_running_loop().create_task(self._make_map())
        error = await asyncio.shield(self._mapping)
        if error is not None:
            raise NotSent from error

    async def _make_map(self) -> Exception | None:
        """Ask for a new map. Returns what went wrong."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, self._mapped_at + _BETWEEN_MAPS - clock()))
        client = self._client
        try:
            async with asyncio.timeout(_PATIENCE_FINDING):
                await client.initialize()
                self._map = await self._ask_for_map()
        except Exception as error:
            if clock() - self._answered_at > _PATIENCE_FINDING:  # or a write is under way, which would lose its answer
                self._replace(client)
            return SlotNotFound() if isinstance(error, TimeoutError) else error
        finally:
            self._mapped_at = clock()
        self._moved.clear()
        self._doubted.clear()
        return None

    async def _ask_for_map(self) -> list[_Range]:
        """Ask some nodes at once, those in doubt last, until one answers. Raises what the last of them has met."""
        known = dict.fromkeys([*(each.node for each in self._map), *self._client.nodes_manager.nodes_cache])
        nodes = sorted(known, key=lambda node: node in self._doubted)
        waiting, met = set[asyncio.Task[list[_Range] | Exception]](), Exception()
        try:
            while nodes or waiting:
                while nodes and len(waiting) < _ASKED_AT_ONCE:
                    waiting.add(asyncio.create_task(self._map_of(nodes.pop(0))))
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for answer in [task.result() for task in done]:
                    if not isinstance(answer, Exception):
                        return answer
                    met = answer
            raise met
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.wait(waiting)

    async def _map_of(self, node: str) -> list[_Range] | Exception:
        (answer,) = await self.exchange(node, _MAP, 1)
        if isinstance(answer, Exception):
            return answer
        ranges = []
        for first, last, primary, *_ in answer:
            # A node that does not know its own address says nothing, or a question mark: it is the one that was asked.
            host = (primary[0] or b"").decode().replace("?", "") or node.rpartition(":")[0]
            ranges.append(_Range(first, last, self.named(host, primary[1])))
        return sorted(ranges) or SlotNotCovered()

    def named(self, host: str, port: int) -> str:
        """Return the name of the node with this address, where the client knows it by another one too."""
        host, port = self._client.nodes_manager.remap_host_port(host, port)
        return f"{host}:{port}"

    # --- connections ----------------------------------------------------------------------------------------------

    async def exchange(self, node: str, commands: bytes, count: int) -> list[Any]:
        """As `connections.Connections.exchange`, with one node."""
        try:
            driver = self._driver(node)
            connection: Connection = driver.acquire_connection()
        except Exception as error:  # more connections than the client may have
            return [_not_sent(error)] * count
        failed = True
        try:
            await revive(connection)
            self.has_connected = True
            answers = await converse(connection, commands, count)
            failed = is_spent(answers)
            if not failed:
                self._answered_at = asyncio.get_running_loop().time()
        except NotSent as error:
            answers = [error] * count
        finally:
            if failed:
                self.doubt(node)
                await connection.disconnect(nowait=True)
            # valkey-py has no method for it.
            getattr(driver, "release", driver._free.append)(connection)
        return answers

    def _driver(self, node: str) -> Any:
        """Return what the driver has for a node."""
        client = self._client
        known = client.get_node(node_name=node) or self._new_nodes.get(node)
        if known is None:
            host, _, port = node.rpartition(":")
            model = client.get_random_node()
            known = self._new_nodes[node] = type(model)(
                host, int(port), model.server_type, **client.nodes_manager.connection_kwargs
            )
        return known

    def single(self, node: str) -> Any:
        """Return one more connection to a node, which is not connected yet, and which nobody else uses."""
        driver = self._driver(node)
        return driver.connection_class(**driver.connection_kwargs)

    async def close(self) -> None:
        """Close the connections, within reason. Those of the app's own client stay open."""
        if self._mapping is not None and not self._mapping.done():
            self._mapping.cancel()
            await asyncio.wait([self._mapping])
        if self._closing:
            await asyncio.wait(self._closing)
        if self._make is not None:
            await part(_close(self._client))
        await _disconnect(self._new_nodes)

    def _replace(self, client: Any) -> None:
        """Begin anew from the URL: a client that found no node may have forgotten all it knew (redis-py 6.4)."""
        if self._make is not None and self._client is client:  # or another batch has done it
            self._client = self._make()
            self._map, new_nodes = [], self._new_nodes
            self._new_nodes = {}
            for closing in (part(_close(client)), _disconnect(new_nodes)):
                task = asyncio.get_running_loop().create_task(closing)
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)


def _not_sent(reason: Exception) -> NotSent:
    error = NotSent()
    error.__cause__ = reason
    return error


async def _disconnect(nodes: dict[str, Any]) -> None:
    for node in nodes.values():
        await part(node.disconnect())


async def _close(client: Any) -> None:
    """Close a cluster's client. After a fault the driver thinks that it is closed, and would keep its connections."""
    nodes = [*client.nodes_manager.nodes_cache.values(), *client.nodes_manager.startup_nodes.values()]
    await client.aclose()
    await asyncio.gather(*(node.disconnect() for node in nodes), return_exceptions=True)
