"""Sessions that are kept near, in two real processes over real servers."""

import asyncio
import contextlib

import asyncpg
import pytest
import redis

from roomkey.stores.postgres import PostgresStore
from roomkey.stores.text import DEFAULT_TABLE
from tests.loop_clock import until
from tests.near_site import MutableProxy, Process
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.usefixtures("tidy")


@pytest.fixture(scope="module")
def server():
    with RedisServer() as one:
        yield one


@pytest.fixture
def admin(server):
    with contextlib.closing(redis.Redis(port=server.port)) as one:
        yield one


@contextlib.asynccontextmanager
async def two(store, directory, there=None, **environment):
    """Give two processes, "here" and "there". `there`: the second one's store, where it has another address."""
    here = Process(store, directory / "here.log", **environment)
    away = Process(there or store, directory / "there.log", **environment)
    with contextlib.ExitStack() as stack:
        yield [await asyncio.to_thread(stack.enter_context, each) for each in (here, away)]


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """Two processes, for tests that do nothing to them. An age that no test outlives, however busy the machine is."""
    directory, environment = tmp_path_factory.mktemp("pair"), {"ROOMKEY_TEST_MAX_AGE": "60"}
    with (
        Process(server.url, directory / "here.log", **environment) as here,
        Process(server.url, directory / "there.log", **environment) as there,
    ):
        yield here, there


async def test_a_session_that_was_read_is_not_read_again(pair, admin):
    """The second read of a session comes from the process's memory, and asks the server nothing."""
    here, _ = pair
    card = await here.log_in()
    assert await here.read_near(card) == {"user_id": "ada"}
    before = admin.info("commandstats")["cmdstat_mget"]["calls"]
    for _ in range(5):
        assert await here.read(card) == ({"user_id": "ada"}, True)
    assert admin.info("commandstats")["cmdstat_mget"]["calls"] == before


async def test_a_change_is_seen_there_once_the_server_has_told(pair):
    """What one process saves, it sees at once. The other one sees it after the server's message."""
    here, there = pair
    card = await here.log_in()
    for number in range(5):
        for each in (here, there):
            await each.read_near(card)
        await here.get("/put", card, key="n", value=str(number))
        assert (await here.read(card))[0]["n"] == str(number)

        async def is_seen(number=number):
            return (await there.read(card))[0]["n"] == str(number)

        await until(is_seen)


@pytest.mark.parametrize("page", ["/logout", "/revoke", "/end-all"])
async def test_a_log_out_is_seen_there(pair, page):
    """A log-out, a revocation and the end of all sessions are seen at once here, and there after the message."""
    here, there = pair
    card = await here.log_in()
    for each in (here, there):
        await each.read_near(card)
    await here.get(page, card, user="ada")
    assert await here.read(card) == ({}, False)

    async def is_seen():
        return (await there.read(card))[0] == {}

    await until(is_seen)


async def test_a_fresh_route_asks_the_store(pair):
    """A route of `fresh` is not served from memory."""
    here, _ = pair
    card = await here.log_in()
    await here.read_near(card)
    assert await here.read(card, "/admin/read") == ({"user_id": "ada"}, False)
    assert await here.read(card) == ({"user_id": "ada"}, True)


async def test_messages_that_do_not_come(server, tmp_path):
    """A log-out whose message is lost on a connection that looks alive is seen after `near_max_age`, by the clock."""
    async with MutableProxy(server.port) as proxy:
        there_url = server.url.replace(str(server.port), str(proxy.port))
        # An age that no test outlives: what passes here is the moved clock.
        async with two(server.url, tmp_path, there_url, ROOMKEY_TEST_MAX_AGE="60") as (here, there):
            card = await here.log_in()
            await there.read_near(card)
            proxy.is_mute = True
            await here.get("/logout", card)
            assert await there.read(card) == ({"user_id": "ada"}, True)
            await there.ahead(61)
            assert await there.read(card) == ({}, False)


async def test_a_process_that_stood_still(server, tmp_path):
    """A process that was stopped for longer than `near_max_age` serves nothing from before."""
    async with two(server.url, tmp_path, ROOMKEY_TEST_MAX_AGE="0.1") as (here, there):
        card = await here.log_in()
        await there.read_near(card)
        there.pause()
        reading = asyncio.create_task(there.get("/read", card))
        await here.get("/logout", card)
        await asyncio.sleep(0.2)  # longer than the age, on the system's clock
        there.resume()
        assert (await reading)["data"] == {}


async def test_a_connection_that_is_killed(pair, admin):
    """Where the server closes the connection, nothing is served from memory until there is a new one."""
    here, there = pair
    card = await here.log_in()
    await there.read_near(card)
    trackers = [each["id"] for each in admin.client_list() if "t" in each["flags"]]
    assert len(trackers) == 2  # one for each process
    for each in trackers:
        admin.execute_command("CLIENT", "KILL", "ID", each)
    await here.get("/put", card, key="n", value="1")

    async def is_seen():
        return (await there.read(card))[0].get("n") == "1"

    await until(is_seen)
    assert await there.read_near(card) == {"user_id": "ada", "n": "1"}
    assert "the connection on which <RedisStore" in there.said and "says again" in there.said


async def test_a_server_that_restarts(tmp_path):
    """Sessions that a restart has lost are gone, and those that begin after it are kept near again."""
    with RedisServer() as server:
        async with two(server.url, tmp_path) as (here, there):
            card = await here.log_in()
            await there.read_near(card)
            server.restart()
            await until(lambda: there.holds())
            assert await there.read(card) == ({}, False)
            assert await there.read_near(await here.log_in("bob")) == {"user_id": "bob"}


async def test_a_server_that_hangs(tmp_path):
    """While the server answers nothing, memory serves for `near_max_age` and no longer."""
    with RedisServer() as server:
        async with two(server.url, tmp_path, ROOMKEY_TEST_MAX_AGE="60", ROOMKEY_TEST_TIMEOUT="0.2") as (here, there):
            card = await here.log_in()
            await there.read_near(card)
            server.pause()
            assert await there.read(card) == ({"user_id": "ada"}, True)
            await there.ahead(61)
            assert await there.read(card) is None
            server.resume()

            async def is_back():
                return await there.read(card) == ({"user_id": "ada"}, True)

            await until(is_back)


@pytest.mark.parametrize("command", ["FLUSHALL", "FLUSHDB", "DEL roomkey:epoch"])
async def test_all_sessions_are_gone(pair, admin, command):
    """Whatever ends all sessions in the server empties the memory of each process."""
    here, there = pair
    card = await here.log_in()
    for each in (here, there):
        await each.read_near(card)
    admin.execute_command(*command.split())
    for each in (here, there):

        async def is_seen(each=each):
            return await each.read(card) == ({}, False)

        await until(is_seen)


# --- over PostgreSQL and SQLite ---------------------------------------------------------------------------------------


async def _make_table(url):
    store = PostgresStore(url)
    await store.create_table()
    await store.close()


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer() as one:
        asyncio.run(_make_table(one.url))
        yield one


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def others(request, tmp_path_factory):
    """Two processes over another store. An age that no test outlives: what they see, they were told."""
    directory = tmp_path_factory.mktemp("others")
    url = f"sqlite:///{directory}/sessions.sqlite3"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").url
    environment = {"ROOMKEY_TEST_MAX_AGE": "60"}
    with (
        Process(url, directory / "here.log", **environment) as here,
        Process(url, directory / "there.log", **environment) as there,
    ):
        yield here, there


async def test_a_change_is_told_by_other_stores(others):
    """A change is seen at once here, and there once the database has told."""
    here, there = others
    card = await here.log_in()
    for each in (here, there):
        await each.read_near(card)
    await here.get("/put", card, key="n", value="1")
    assert (await here.read(card))[0]["n"] == "1"

    async def is_seen():
        return (await there.read(card))[0].get("n") == "1"

    await until(is_seen)


@pytest.mark.parametrize("page", ["/logout", "/revoke", "/end-all"])
async def test_a_log_out_is_told_by_other_stores(others, page):
    """So is a log-out, a revocation and the end of all sessions."""
    here, there = others
    card = await here.log_in()
    for each in (here, there):
        await each.read_near(card)
    await here.get(page, card, user="ada")
    assert await here.read(card) == ({}, False)

    async def is_seen():
        return (await there.read(card))[0] == {}

    await until(is_seen)


async def test_what_postgres_does_not_tell(postgres, tmp_path):
    """A session that somebody else ends in the database, and tells nobody, is seen after `near_max_age`."""
    async with two(postgres.url, tmp_path, ROOMKEY_TEST_MAX_AGE="60") as (here, there):
        card = await here.log_in()
        await there.read_near(card)
        connection = await asyncpg.connect(postgres.url)
        await connection.execute(f"DELETE FROM {DEFAULT_TABLE}")
        await connection.close()
        assert await there.read(card) == ({"user_id": "ada"}, True)
        await there.ahead(61)
        assert await there.read(card) == ({}, False)


async def test_postgres_restarts(tmp_path):
    """While the connection is lost, nothing is served from memory, and afterwards it is again."""
    with PostgresServer() as server:
        await _make_table(server.url)
        async with two(server.url, tmp_path) as (here, there):
            card = await here.log_in()
            await there.read_near(card)
            server.stop()

            async def is_lost():
                return await there.read(card) is None

            await until(is_lost)
            server.start()

            async def is_back():
                return (await there.read(card)) == ({"user_id": "ada"}, True)

            await until(is_back)
