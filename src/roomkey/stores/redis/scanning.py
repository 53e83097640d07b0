"""All keys of a store, a batch at a time: on one server, and on every node of a cluster.

In a cluster a key may go from a node that comes later to one that was looked through already. So a look through all
nodes counts only if each of them has the same slots afterwards as before, and none is moving. Otherwise all are looked
through again. Nothing that stays is missed, and much may come twice.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from roomkey.errors import StoreUnavailable
from roomkey.stores.redis.cluster_link import ClusterLink
from roomkey.stores.redis.link import Asking, Link
from roomkey.stores.redis.scripts import Command

__all__ = ["scan"]


class _At(NamedTuple):
    """Where a look through all nodes goes on."""

    shape: str  # which slots each node had when it began
    cursor: str  # of the node
    node: str

    def written(self) -> str:
        return " ".join(self)


async def scan(link: Link, pattern: bytes, limit: int, after: str) -> tuple[list[bytes], str]:
    """Return some names, and where to go on; an empty text: these were the last.

    Args:
        link: the way to the server, or to the cluster.
        pattern: of the names.
        limit: how many, about.
        after: what the call before returned; empty for the first one.

    Raises:
        StoreUnavailable: a node does not answer. Then the same call can be made again.
    """
    if not isinstance(link, ClusterLink):
        return await _scan_one(link.writes, pattern, limit, after)
    here = await _begin(link) if not after else _At(*after.split(" ", 2))
    try:
        names, cursor = await _scan_one(link.node(here.node).writes, pattern, limit, here.cursor)
    except StoreUnavailable:
        if here.node in await link.primaries():
            raise
        return [], (await _begin(link)).written()  # its successor is another server, and knows nothing of the cursor
    if cursor:
        return names, here._replace(cursor=cursor).written()
    following = [node for node in sorted(await link.primaries()) if node > here.node]
    if following:
        return names, _At(here.shape, "", following[0]).written()
    shape, moves = await _shape_of(link)
    if moves or shape != here.shape:
        return names, (await _begin(link)).written()
    return names, ""


async def _begin(link: ClusterLink) -> _At:
    shape, _ = await _shape_of(link)
    return _At(shape, "", min(await link.primaries()))


async def _shape_of(link: ClusterLink) -> tuple[str, bool]:
    claims, moves = await link.shape()
    return hashlib.sha256(repr(sorted(claims.items())).encode()).hexdigest()[:16], moves


async def _scan_one(server: Asking, pattern: bytes, limit: int, cursor: str) -> tuple[list[bytes], str]:
    """Return some names on one server, and its cursor; empty: these were its last."""
    command = Command((b"SCAN", cursor.encode() or b"0", b"MATCH", pattern, b"COUNT", b"%d" % limit))
    following, names = await server.ask(command)
    return names, "" if following == b"0" else following.decode()
