"""Flash messages: each shown once and only once."""

import asyncio

from roomkey import SessionConfig
from roomkey.lifecycle import Lifecycle
from roomkey.stores.memory import MemoryStore


class World:
    def __init__(self):
        self.store = MemoryStore()
        self.life = Lifecycle(SessionConfig(secret_key="k" * 32, store=self.store))

    async def begin(self, *messages):
        visit = self.life.anonymous()
        visit.session["user_id"] = 42
        for message in messages:
            visit.session.flash(message)
        await visit.commit()
        return visit.card


def run(scenario):
    asyncio.run(scenario())


def test_messages_are_shown_on_the_next_page():
    """Messages come in order, with their categories, and are gone afterwards."""

    async def scenario():
        world = World()
        card = await world.begin("one")
        visit = await world.life.arrive([card])
        visit.session.flash({"text": "two"}, "error")
        await visit.commit()
        visit = await world.life.arrive([card])
        assert await visit.session.flashes() == [("info", "one"), ("error", {"text": "two"})]
        assert await visit.session.flashes() == []
        await visit.commit()
        assert await (await world.life.arrive([card])).session.flashes() == []

    run(scenario)


def test_a_message_can_be_shown_by_the_request_that_left_it():
    """A page that is not left after all shows its own message, once."""

    async def scenario():
        world = World()
        card = await world.begin()
        visit = await world.life.arrive([card])
        visit.session.flash("wrong password")
        assert await visit.session.flashes() == [("info", "wrong password")]
        await visit.commit()
        assert await (await world.life.arrive([card])).session.flashes() == []

    run(scenario)


def test_two_pages_at_once_share_the_messages():
    """However many pages ask at once, each message is handed to exactly one of them."""

    async def scenario():
        world = World()
        card = await world.begin("a", "b", "c")
        visits = [await world.life.arrive([card]) for _ in range(10)]
        shown = await asyncio.gather(*(visit.session.flashes() for visit in visits))
        assert sorted(message for messages in shown for _, message in messages) == ["a", "b", "c"]
        await asyncio.gather(*(visit.commit() for visit in visits))
        assert await (await world.life.arrive([card])).session.flashes() == []

    run(scenario)


def test_a_message_that_comes_meanwhile_is_not_lost():
    """A message left while another page takes those that wait is shown by one of them, or later."""

    async def scenario():
        world = World()
        card = await world.begin("early")
        taking, leaving = await world.life.arrive([card]), await world.life.arrive([card])
        leaving.session.flash("late")
        await leaving.commit()
        shown = await taking.session.flashes()
        later = await (await world.life.arrive([card])).session.flashes()
        assert [message for _, message in [*shown, *later]] == ["early", "late"]

    run(scenario)


def test_concurrent_messages_are_all_kept():
    """Messages that several requests leave at once are all shown."""

    async def scenario():
        world = World()
        card = await world.begin()
        visits = [await world.life.arrive([card]) for _ in range(5)]
        for number, visit in enumerate(visits):
            visit.session.flash(number)
        await asyncio.gather(*(visit.commit() for visit in visits))
        shown = await (await world.life.arrive([card])).session.flashes()
        assert sorted(message for _, message in shown) == [0, 1, 2, 3, 4]

    run(scenario)


def test_asking_costs_nothing_when_nothing_waits():
    """Without messages nothing is saved."""

    async def scenario():
        world = World()
        card = await world.begin()
        visit = await world.life.arrive([card])
        version = visit.record.version
        assert await visit.session.flashes() == []
        await visit.commit()
        assert visit.record.version == version

    run(scenario)


def test_messages_of_an_ended_session_are_gone():
    """Where the session was ended meanwhile there is nothing to show."""

    async def scenario():
        world = World()
        card = await world.begin("bye")
        showing, leaving = await world.life.arrive([card]), await world.life.arrive([card])
        leaving.session.clear()
        await leaving.commit()
        assert await showing.session.flashes() == []

    run(scenario)
