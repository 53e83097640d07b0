"""Sessions that are kept near, in two processes over a real Redis cluster."""

import pytest

from roomkey.stores.redis.places import slot_of
from tests.loop_clock import until
from tests.near_site import Process
from tests.servers.redis_cluster import RedisCluster

pytestmark = pytest.mark.usefixtures("tidy")


@pytest.fixture(scope="module")
def cluster():
    with RedisCluster(primaries=3) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def pair(cluster, tmp_path_factory):
    """Two processes. An age that no test outlives: what they see, they were told."""
    directory = tmp_path_factory.mktemp("pair")
    environment = {"ROOMKEY_TEST_MAX_AGE": "60"}
    with (
        Process(cluster.url, directory / "here.log", **environment) as here,
        Process(cluster.url, directory / "there.log", **environment) as there,
    ):
        yield here, there


async def seen(process, card, data):
    async def is_seen():
        return (await process.read(card))[0] == data

    await until(is_seen)


async def test_changes_and_log_outs_are_told_by_every_node(cluster, pair):
    """Wherever a session is, a change and a log-out are seen at once here, and there once its node has told."""
    here, there = pair
    cards = [await here.log_in(f"user{number}") for number in range(12)]
    for number, card in enumerate(cards):
        for each in pair:
            await each.read_near(card)
        await here.get("/put", card, key="n", value="1")
        changed = {"user_id": f"user{number}", "n": "1"}
        assert (await here.read(card))[0] == changed
        await seen(there, card, changed)
        await there.read_near(card)
        await here.get("/logout", card)
        assert (await here.read(card))[0] == {}
        await seen(there, card, {})
    for node in cluster.primaries:
        trackers = [each for each in node.admin.client_list() if "t" in each["flags"]]
        assert len(trackers) == 2, "one connection for each process and node"


async def test_all_sessions_end_at_once(pair):
    """The end of all sessions is told by every node."""
    here, there = pair
    cards = [await here.log_in() for _ in range(6)]
    for card in cards:
        await there.read_near(card)
    await here.get("/end-all", cards[0])
    for card in cards:
        assert (await here.read(card))[0] == {}
        await seen(there, card, {})


async def test_a_slot_that_moves(cluster, pair):
    """A session whose slot moves to another node is told of from there."""
    here, there = pair
    card = await here.log_in()
    await there.read_near(card)
    names = [(node, name) for node in cluster.primaries for name in node.admin.keys("roomkey:{*:s:*")]
    for source, name in names:
        target = next(node for node in cluster.primaries if node is not source)
        cluster.move(slot_of(name), source, target)
    await seen(there, card, {"user_id": "ada"})
    await there.read_near(card)
    await here.get("/put", card, key="n", value="1")
    await seen(there, card, {"user_id": "ada", "n": "1"})


async def test_a_node_that_nobody_listens_to(cluster, tmp_path):
    """A slot goes to a node that is new. A log-out there is seen, whether that node has told of it by then or not."""
    environment = {"ROOMKEY_TEST_MAX_AGE": "60"}
    with (
        Process(cluster.url, tmp_path / "here.log", **environment) as here,
        Process(cluster.url, tmp_path / "there.log", **environment) as there,
    ):
        known = {name for node in cluster.primaries for name in node.admin.keys("roomkey:{*:s:*")}
        card = await here.log_in()
        await there.read_near(card)
        new = cluster.add()
        (name,) = {name for node in cluster.primaries for name in node.admin.keys("roomkey:{*:s:*")} - known
        cluster.move(slot_of(name), cluster.owner_of(slot_of(name)), new)
        await there.read(card)
        await here.get("/logout", card)
        await there.ahead(61)
        assert (await there.read(card))[0] == {}
