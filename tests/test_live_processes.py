"""A log-out in one process closes what is open in another, also where the store's server is restarted meanwhile."""

import asyncio
import contextlib

import httpx
import pytest

from roomkey.stores.postgres import PostgresStore
from tests.live_servers import LiveServer, open_all
from tests.loop_clock import until
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(scope="module", params=["redis", "postgres"])
def served(request, tmp_path_factory):
    """A server of sessions, and two processes of one app on it."""
    with contextlib.ExitStack() as stack:
        if request.param == "redis":
            kept = stack.enter_context(RedisServer("--appendonly", "yes"))
        else:
            kept = stack.enter_context(PostgresServer())
            asyncio.run(PostgresStore(kept.url).create_table())
        directory = tmp_path_factory.mktemp("live")
        servers = [
            stack.enter_context(LiveServer(kept.url, directory / f"{number}.log", ROOMKEY_TEST_TIMEOUT="60"))
            for number in range(2)
        ]
        for server in servers:
            asyncio.run(server.answers())
        yield kept, servers


async def _with_sockets(served, users):
    _, servers = served
    cards = {user: await servers[0].log_in(user) for user in users}
    return servers, cards, await open_all(servers, cards, each=4)


async def _close(sockets):
    await asyncio.gather(*(socket.close() for socket in sockets))


async def test_exactly_the_users_sockets_close(served):
    """Of 20 users with 4 sockets each in two processes, one is revoked: exactly theirs close, with 4401."""
    users = [f"user{number}" for number in range(20)]
    servers, _, sockets = await _with_sockets(served, users)
    theirs = [socket for socket in sockets if socket.user == "user7"]
    await servers[1].post("/revoke/user7")
    await until(lambda: all(socket.closed_at for socket in theirs))
    assert {(socket.code, socket.reason) for socket in theirs} == {(4401, "session ended")}
    await asyncio.sleep(1)
    assert not [socket for socket in sockets if socket.closed_at and socket.user != "user7"]
    await _close(sockets)


async def test_a_log_out_ends_a_stream_elsewhere(served):
    """A stream that one process serves ends when the other one serves the log-out."""
    _, servers = served
    card = await servers[0].log_in("streamer")
    cookie = {"cookie": f"session={card}"}
    async with (
        httpx.AsyncClient(base_url=servers[0].url, trust_env=False, timeout=120) as client,
        client.stream("GET", "/stream", headers=cookie) as answer,
    ):
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == b": hello\n\n"
        await servers[1].post("/logout", card)
        assert [chunk async for chunk in chunks] == []


async def test_a_restart_of_the_server_loses_none(served):
    """A session that ends while the connection for notices is down is found when it is back."""
    kept, (_, second) = served
    _, cards, sockets = await _with_sockets(served, ["ann", "bob"])
    kept.restart()
    await second.post("/logout", cards["ann"])
    theirs = [socket for socket in sockets if socket.user == "ann"]
    await until(lambda: all(socket.closed_at for socket in theirs))
    assert {socket.code for socket in theirs} == {4401}
    assert not [socket for socket in sockets if socket.closed_at and socket.user == "bob"]
    await _close(sockets)
