"""`python -m benchmarks.probes`: asks each library the same questions, and prints the table in Markdown."""

from __future__ import annotations

import argparse
import asyncio
import platform

from benchmarks.counting import RedisEngine
from benchmarks.probes.questions import QUESTIONS
from benchmarks.probes.running import PEERS, Peer, Served
from benchmarks.report import lines, progress, versions


async def _ask(peer: Peer) -> tuple[list[str], str]:
    """Return the cells of a peer's column, and the version of Redis."""
    cells = []
    async with Served(peer) as served:
        version = RedisEngine(served.redis.url).version
        for row, probe in QUESTIONS.items():
            progress(f"{peer.title}: {row}")
            cells.append(await probe(served))
    progress("")
    return cells, version


def main() -> None:
    """Be the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    modules = [peer.module for peer in PEERS]
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(modules)}; none: all")
    chosen = parser.parse_args().peers or modules
    if unknown := set(chosen) - set(modules):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}. There are {', '.join(modules)}.")
    peers = [peer for peer in PEERS if peer.module in chosen]
    columns, redis = [], ""
    for peer in peers:
        cells, redis = asyncio.run(_ask(peer))
        columns.append(cells)
    print(_table(peers, columns))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    found = versions({package for peer in peers for package in peer.packages})
    print("", lines({"Python": python, "Redis": redis, **found}), sep="\n")


def _table(peers: list[Peer], columns: list[list[str]]) -> str:
    rows = [
        ["", *(peer.title for peer in peers)],
        ["---"] * (len(peers) + 1),
        ["Sessions are in", *(peer.keeps for peer in peers)],
        *([row, *cells] for row, *cells in zip(QUESTIONS, *columns, strict=True)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
