"""Open WebSockets and the end of their sessions: how long it takes until they close, and what they cost.

`python -m benchmarks.live` starts Redis, PostgreSQL and two processes of one app (uvicorn) on each. It checks what it
measures: exactly one user's sockets close, and none is missed while the server of the sessions is restarted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
from pathlib import Path

from roomkey.stores.postgres import PostgresStore
from tests.live_servers import LiveServer, open_all
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

USERS, EACH = 100, 10


async def closed(sockets) -> float:
    """Wait until all of these have closed. Return when the last one did."""
    async with asyncio.timeout(120):
        while not all(socket.closed_at for socket in sockets):
            await asyncio.sleep(0.001)
    assert {(socket.code, socket.reason) for socket in sockets} == {(4401, "session ended")}
    return max(socket.closed_at for socket in sockets)


async def latency(kept, servers, rounds: int) -> list[float]:
    """Revoke one user after the other, and return the seconds until the last of the sockets had closed."""
    cards = {f"user{number}": await servers[0].log_in(f"user{number}") for number in range(USERS)}
    sockets = await open_all(servers, cards, EACH)
    await asyncio.sleep(1)
    took = []
    for number in range(rounds):
        user = f"user{number}"
        theirs = [socket for socket in sockets if socket.user == user]
        others = [socket for socket in sockets if socket.user != user and socket.closed_at is None]
        begun = asyncio.get_running_loop().time()
        await servers[number % 2].post(f"/revoke/{user}")
        took.append(await closed(theirs) - begun)
        assert all(socket.closed_at is None for socket in others), "another user's socket has closed"
    # The server is restarted, and somebody logs out before the connections for notices are back.
    last = f"user{USERS - 1}"
    kept.restart()
    begun = asyncio.get_running_loop().time()
    await servers[0].post("/logout", cards[last])
    theirs = [socket for socket in sockets if socket.user == last]
    print(f"  after a restart of the server: {await closed(theirs) - begun:.2f} s, none missed")
    await asyncio.gather(*(socket.close() for socket in sockets))
    return took


async def memory(server, count: int) -> float:
    """Return the bytes of one process for each open socket."""
    cards = {f"many{number}": await server.log_in(f"many{number}") for number in range(100)}
    warm = await open_all([server], cards, 2)
    before = await server.state()
    sockets = await open_all([server], cards, count // 100)
    await asyncio.sleep(2)  # until each was looked at
    after = await server.state()
    assert after["open"] - before["open"] == count // 100 * 100
    await asyncio.gather(*(socket.close() for socket in warm + sockets))
    return (after["kilobytes"] - before["kilobytes"]) * 1024 / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=90, help="users that are revoked, one after the other")
    parser.add_argument("--memory", action="store_true", help="measure the memory alone")
    parser.add_argument("--sockets", type=int, default=10_000, help="that are open in one process at once")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer("--appendonly", "yes"))
        postgres = stack.enter_context(PostgresServer())
        asyncio.run(PostgresStore(postgres.url).create_table())
        for name, kept in () if given.memory else (("Redis", redis), ("PostgreSQL", postgres)):
            with LiveServer(kept.url, directory / "1") as one, LiveServer(kept.url, directory / "2") as two:
                asyncio.run(one.answers())
                asyncio.run(two.answers())
                print(f"{name}: {USERS * EACH} sockets of {USERS} users in two processes, one user revoked at a time")
                took = sorted(asyncio.run(latency(kept, [one, two], given.rounds)))
            p99 = took[min(len(took) - 1, round(0.99 * len(took)))]
            print(
                f"  until the last has closed: median {statistics.median(took) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
            )
        costs = {}
        for live in ("no", "yes"):
            with LiveServer(redis.url, directory / "3", ROOMKEY_TEST_LIVE=live, ROOMKEY_TEST_TIMEOUT="30") as server:
                asyncio.run(server.answers())
                costs[live] = asyncio.run(memory(server, given.sockets))
        print(
            f"{given.sockets} open sockets in one process: {costs['no']:.0f} bytes each without live, "
            f"{costs['yes']:.0f} with it, so {costs['yes'] - costs['no']:.0f} more"
        )


if __name__ == "__main__":
    main()
