"""A real Redis cluster for tests: primaries with replicas on free ports of this machine, and what changes its shape."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import redis

from tests.loop_clock import HANGS
from tests.servers.parts import free_port
from tests.servers.redis import RedisServer

__all__ = ["RedisCluster", "wait_until"]

SLOTS = 16384


def wait_until(met: Callable[[], bool]) -> None:
    hangs = time.monotonic() + HANGS
    while not met():
        assert time.monotonic() < hangs, "it does not happen"
        time.sleep(0.02)


class Node:
    """A node, and a plain client of it."""

    def __init__(self, patience: float) -> None:
        # The bus's port is 10,000 above the other one unless it is named, and that may be past the last.
        self.bus = free_port()
        timeout = str(int(patience * 1000))
        self.server = RedisServer(
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", timeout),
            *("--repl-diskless-sync-delay", "0", "--cluster-migration-barrier", "999"),
        )
        self.admin: redis.Redis = redis.Redis(port=self.server.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def ask(self, *command: Any) -> Any:
        return self.admin.execute_command(*command)

    @property
    def name(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def is_well(self) -> bool:
        return bool(self.admin.cluster("INFO")["cluster_state"] == "ok")

    def close(self) -> None:
        self.admin.close()
        self.server.__exit__(None, None, None)


class RedisCluster:
    """A cluster, alive as a context manager.

    Args:
        primaries: how many nodes share the slots, evenly.
        replicas: how many replicas each of them has.
        patience: seconds for which a node may be silent before the others call it failed. On a busy machine a node that
            says nothing for a while is not down, so that tests that kill none give it long.
    """

    def __init__(self, primaries: int = 3, replicas: int = 0, patience: float = HANGS) -> None:
        self._patience = patience
        self.primaries: list[Node] = [Node(patience) for _ in range(primaries)]
        self.replicas: list[Node] = [Node(patience) for _ in range(primaries * replicas)]

    @property
    def nodes(self) -> list[Node]:
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.primaries)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            for node in self.nodes:
                node.server.start()
            share = -(-SLOTS // len(self.primaries))
            for number, node in enumerate(self.primaries):
                node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, min(number * share + share, SLOTS) - 1)
            for epoch, node in enumerate(self.nodes, 1):
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            for node in self.nodes[1:]:
                self.meet(node)
            self._wait_until_known()
            for number, node in enumerate(self.replicas):
                node.ask("CLUSTER", "REPLICATE", self.primaries[number % len(self.primaries)].name)
            for node in self.replicas:
                wait_until(lambda node=node: node.admin.info("replication").get("master_link_status") == "up")  # type: ignore[misc]
            wait_until(lambda: all(self._sees_replicas(node) for node in self.nodes))
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for node in self.nodes:
            node.close()

    def meet(self, node: Node) -> None:
        """Have a node become part of the cluster."""
        self.primaries[0].ask("CLUSTER", "MEET", "127.0.0.1", node.server.port, node.bus)

    def _wait_until_known(self) -> None:
        wait_until(lambda: all(len(node.admin.cluster("NODES")) == len(self.nodes) for node in self.nodes))
        wait_until(lambda: all(node.is_well() for node in self.nodes))

    def _sees_replicas(self, node: Node) -> bool:
        flags = [each["flags"] for each in node.admin.cluster("NODES").values()]
        return sum("slave" in each for each in flags) == len(self.replicas)

    def add(self) -> Node:
        """Start another node, which gets no slot yet."""
        node = Node(self._patience)
        node.server.start()
        self.primaries.append(node)
        self.meet(node)
        self._wait_until_known()
        return node

    def owner_of(self, slot: int) -> Node:
        """Return the primary that says that it has a slot."""
        for node in self.primaries:
            for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS"):
                if first <= slot <= last and int(primary[1]) == node.server.port:
                    return node
        raise AssertionError(f"nobody has slot {slot}")

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """Have a slot on its way: its keys may be on either node from now on."""
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)

    def carry(self, slot: int, source: Node, target: Node, most: int = 1_000_000) -> int:
        """Move some of the keys of a slot; return how many."""
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, most)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Say that the slot has moved, once its keys have."""
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.name)

    def move(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot with all its keys."""
        self.begin_move(slot, source, target)
        while self.carry(slot, source, target):
            pass
        self.end_move(slot, source, target)
