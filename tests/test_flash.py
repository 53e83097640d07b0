"""Flash messages: each shown once and only once."""

import asyncio

import pytest

from roomkey import SessionConfig, SessionDataError, SessionMiddleware, StoreUnavailable
from roomkey.csrf import csrf_token
from roomkey.legacy import StarletteCookie
from roomkey.stores.memory import MemoryStore
from tests.driver import Driver


class World:
    def __init__(self):
        self.store = MemoryStore()
        self.life = Driver(SessionConfig(secret_key="k" * 32, store=self.store))

    async def begin(self, *messages):
        visit = self.life.anonymous()
        visit.session["user_id"] = 42
        for message in messages:
            visit.session.flash(message)
        await visit.commit()
        return visit.card


async def test_messages_are_shown_on_the_next_page():
    """Messages come in order, with their categories, and are gone afterwards."""
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


async def test_a_message_can_be_shown_by_the_request_that_left_it():
    """A page that is not left after all shows its own message, once."""
    world = World()
    card = await world.begin()
    visit = await world.life.arrive([card])
    visit.session.flash("wrong password")
    assert await visit.session.flashes() == [("info", "wrong password")]
    await visit.commit()
    assert await (await world.life.arrive([card])).session.flashes() == []


async def test_the_newest_50_messages_are_kept():
    """Messages that no page shows do not fill the session, whichever requests leave them."""
    world = World()
    card = await world.begin("first")
    for number in range(200):
        visit, other = await world.life.arrive([card]), await world.life.arrive([card])
        visit.session.flash("x" * 900 + str(number))
        other.session.flash("y" * 100)
        await visit.commit()
        await other.commit()
    kept = await (await world.life.arrive([card])).session.flashes()
    assert [message for _, message in kept[::2]] == ["x" * 900 + str(number) for number in range(175, 200)]
    assert [message for _, message in kept[1::2]] == ["y" * 100] * 25


async def test_messages_that_could_not_be_taken_are_bounded_too():
    """A store that fails while they are taken gives them back, and no more than 50 wait."""
    world = World()
    card = await world.begin(*map(str, range(50)))
    visit = await world.life.arrive([card])

    async def fails(*args, **kwargs):
        raise OSError

    world.store.update = fails
    with pytest.raises(StoreUnavailable):
        await visit.session.flashes()
    visit.session.flash("one more")
    del world.store.update
    await visit.session.save()
    kept = await (await world.life.arrive([card])).session.flashes()
    assert len(kept) == 50 and kept[-1] == ("info", "one more")


async def test_two_pages_at_once_share_the_messages():
    """However many pages ask at once, each message is handed to exactly one of them."""
    world = World()
    card = await world.begin("a", "b", "c")
    visits = [await world.life.arrive([card]) for _ in range(10)]
    shown = await asyncio.gather(*(visit.session.flashes() for visit in visits))
    assert sorted(message for messages in shown for _, message in messages) == ["a", "b", "c"]
    await asyncio.gather(*(visit.commit() for visit in visits))
    assert await (await world.life.arrive([card])).session.flashes() == []


async def test_a_message_that_comes_meanwhile_is_not_lost():
    """A message left while another page takes those that wait is shown by one of them, or later."""
    world = World()
    card = await world.begin("early")
    taking, leaving = await world.life.arrive([card]), await world.life.arrive([card])
    leaving.session.flash("late")
    await leaving.commit()
    shown = await taking.session.flashes()
    later = await (await world.life.arrive([card])).session.flashes()
    assert [message for _, message in [*shown, *later]] == ["early", "late"]


async def test_concurrent_messages_are_all_kept():
    """Messages that several requests leave at once are all shown."""
    world = World()
    card = await world.begin()
    visits = [await world.life.arrive([card]) for _ in range(5)]
    for number, visit in enumerate(visits):
        visit.session.flash(number)
    await asyncio.gather(*(visit.commit() for visit in visits))
    shown = await (await world.life.arrive([card])).session.flashes()
    assert sorted(message for _, message in shown) == [0, 1, 2, 3, 4]


async def test_asking_costs_nothing_when_nothing_waits():
    """Without messages nothing is saved."""
    world = World()
    card = await world.begin()
    visit = await world.life.arrive([card])
    version = visit.record.version
    assert await visit.session.flashes() == []
    await visit.commit()
    assert visit.record.version == version


async def test_messages_for_who_has_logged_in_meanwhile_are_theirs():
    """A request from before the log-in takes what it had seen, and nothing that waits for the user."""
    life = World().life
    visit = life.anonymous()
    visit.session.flash("please log in")
    await visit.commit()
    user, before = await life.arrive([visit.card]), await life.arrive([visit.card])
    user.session["user_id"] = 7
    user.session.flash("your code is 123456")
    await user.commit()
    assert await before.session.flashes() == [("info", "please log in")]
    assert await (await life.arrive([user.card])).session.flashes() == [("info", "your code is 123456")]


async def test_messages_are_shown_once_where_the_user_changes_meanwhile():
    """A page that logs in as somebody else shows no message that another page has shown."""
    world = World()
    card = await world.begin("m")
    shows, switches = await world.life.arrive([card]), await world.life.arrive([card])
    assert await shows.session.flashes() == [("info", "m")]
    switches.session["user_id"] = 43
    assert await switches.session.flashes() == []


async def test_messages_wait_where_the_store_fails():
    """Nothing was shown, so nothing is taken, whatever the request does next."""
    world = World()
    card = await world.begin("one")
    visit = await world.life.arrive([card])
    visit.session.flash("two")
    real = world.store.update

    async def fails(*args, **options):
        raise OSError

    world.store.update = fails
    with pytest.raises(StoreUnavailable):
        await visit.session.flashes()
    world.store.update = real
    visit.session["x"] = 1
    await visit.commit()
    assert await (await world.life.arrive([card])).session.flashes() == [("info", "one"), ("info", "two")]


async def test_messages_of_others_wait_where_the_store_fails():
    """Another task leaves one meanwhile, and another request has left one: each is shown once, later."""
    world = World()
    card = await world.begin("one")
    visit, other = await world.life.arrive([card]), await world.life.arrive([card])
    other.session.flash("theirs")
    await other.commit()
    real, reached, opened = world.store.update, asyncio.Event(), asyncio.Event()

    async def fails(*args, **options):
        reached.set()
        await opened.wait()
        raise OSError

    world.store.update = fails
    showing = asyncio.create_task(visit.session.flashes())
    await reached.wait()
    visit.session.flash("mine")
    opened.set()
    with pytest.raises(StoreUnavailable):
        await showing
    world.store.update = real
    await visit.commit()
    shown = await (await world.life.arrive([card])).session.flashes()
    assert sorted(message for _, message in shown) == ["mine", "one", "theirs"]


async def test_messages_are_not_shown_beside_a_log_out():
    """Another task has logged out before they were taken: nobody knows whether another page has shown them."""
    world = World()
    card = await world.begin("m")
    visit, other = await world.life.arrive([card]), await world.life.arrive([card])
    real, reached, opened = world.store.update, asyncio.Event(), asyncio.Event()

    async def waits(*args, **options):
        reached.set()
        await opened.wait()
        await real(*args, **options)

    assert await other.session.flashes() == [("info", "m")]
    world.store.update = waits
    visit.session["a"] = 1
    saving = asyncio.create_task(visit.session.save())
    await reached.wait()
    showing = asyncio.create_task(visit.session.flashes())
    await asyncio.sleep(0)
    visit.session.clear()
    opened.set()
    await saving
    assert await showing == []


async def test_a_message_shown_by_its_own_request_takes_no_other_along():
    """One that comes while the page is made waits for the next page."""
    world = World()
    card = await world.begin()
    page, other = await world.life.arrive([card]), await world.life.arrive([card])
    page.session.flash("mine")
    assert await page.session.flashes() == [("info", "mine")]
    other.session.flash("theirs")
    await other.commit()
    page.session["x"] = 1
    await page.commit()
    assert await (await world.life.arrive([card])).session.flashes() == [("info", "theirs")]


async def test_messages_of_an_ended_session_are_gone():
    """Where the session was ended meanwhile there is nothing to show."""
    world = World()
    card = await world.begin("bye")
    showing, leaving = await world.life.arrive([card]), await world.life.arrive([card])
    leaving.session.clear()
    await leaving.commit()
    assert await showing.session.flashes() == []


# --- Roomkey's own keys -----------------------------------------------------------------------------------------------

OTHERS = [
    ("_flashes", "x"),
    ("_flashes", 5),
    ("_flashes", ["x"]),
    ("_flashes", [("info", "x", "y")]),
    ("_flashes", [(1, "x")]),
    ("_flashes", {"info": "x"}),
    ("_csrf", "x"),
    ("_csrf", {"token": "x"}),
    ("_csrf", [b"x"]),
]


@pytest.mark.parametrize("ways", ["set", "update", "change", "begin", "replaced"])
@pytest.mark.parametrize(("key", "value"), OTHERS, ids=repr)
async def test_the_apps_own_data_under_roomkeys_keys_is_refused(key, value, ways):
    """It would be handed out as messages, or lost: an error names the key and the way, and nothing is saved."""
    world = World()
    card = await world.begin("kept")
    visit = world.life.anonymous() if ways == "begin" else await world.life.arrive([card])
    if ways == "update":
        visit.session.update({key: value})
    elif ways == "change":
        visit.session.change(key, lambda _: value)
    elif ways == "replaced":
        visit.session._set_content({key: value, "user_id": 42})
    else:
        visit.session[key] = value
    instead = "flash" if key == "_flashes" else "csrf_token"
    with pytest.raises(SessionDataError, match=rf"^session\['{key}'\] is a key of Roomkey's own: .*{instead}\(\)"):
        await visit.commit()
    assert await (await world.life.arrive([card])).session.flashes() == [("info", "kept")]


@pytest.mark.parametrize("value", [value for key, value in OTHERS if key == "_flashes"], ids=repr)
async def test_they_are_no_messages(value):
    """`flashes` and `flash` say so too, and nothing of it is shown."""
    world = World()
    visit = await world.life.arrive([await world.begin()])
    visit.session["_flashes"] = value
    with pytest.raises(SessionDataError, match="_flashes"):
        await visit.session.flashes()
    with pytest.raises(SessionDataError, match="_flashes"):
        visit.session.flash("hello")
    assert visit.session["_flashes"] == value


async def test_roomkeys_own_data_may_be_put_back():
    """A copy of a session, put into it again, is what Roomkey put there."""
    world = World()
    card = await world.begin("one")
    visit = await world.life.arrive([card])
    csrf_token(visit.session)
    visit.session._set_content(visit.session.copy())
    await visit.commit()
    visit = await world.life.arrive([card])
    assert len(visit.session["_csrf"]) == 2
    assert await visit.session.flashes() == [("info", "one")]


@pytest.mark.parametrize(
    ("data", "kept"), [({"_flashes": "x"}, {}), ({"_flashes": [["info", "x"]]}, {"_flashes": [["info", "x"]]})]
)
def test_another_librarys_data_under_them_does_not_stop_a_session_from_moving_in(data, kept):
    """What another library or app kept under these keys is left behind, and the rest moves in."""
    from starlette.applications import Starlette
    from starlette.middleware.sessions import SessionMiddleware as Old
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    async def fill(request):
        request.session.update({"user_id": 7, "_csrf": "secret", **data})
        return JSONResponse({})

    async def show(request):
        request.session["seen"] = True
        return JSONResponse(request.session.copy())

    old = Starlette(routes=[Route("/", fill)])
    old.add_middleware(Old, secret_key="k" * 32)
    cookies = TestClient(old).get("/").cookies
    new = Starlette(routes=[Route("/", show)])
    new.add_middleware(
        SessionMiddleware, secret_key="n" * 32, store="memory://", legacy=[StarletteCookie(secret_key="k" * 32)]
    )
    with TestClient(new, cookies=dict(cookies)) as client:
        assert client.get("/").json() == {"user_id": 7, "seen": True, **kept}


async def test_a_message_for_this_page_is_not_kept():
    """`now=True` shows it on the page that this request makes. It waits for nobody, and makes no session."""
    world = World()
    visit = world.life.anonymous()
    visit.session.flash("wrong password", "error", now=True)
    assert await visit.session.flashes() == [("error", "wrong password")]
    assert await visit.session.flashes() == []
    await visit.commit()
    assert not visit.card
    card = await world.begin("left before")
    visit = await world.life.arrive([card])
    visit.session.flash("not shown", now=True)
    await visit.commit()
    assert await (await world.life.arrive([card])).session.flashes() == [("info", "left before")]


async def test_messages_that_were_taken_can_be_kept_for_one_more_page():
    """They come first on that page, in their order, before what is left meanwhile. What was not taken waits anyway."""
    world = World()
    card = await world.begin("one", "two")
    visit = await world.life.arrive([card])
    visit.session.keep_flashes()  # nothing was taken yet
    assert [message for _, message in await visit.session.flashes()] == ["one", "two"]
    visit.session.flash("three")
    visit.session.keep_flashes()
    visit.session.keep_flashes()  # nothing more
    await visit.commit()
    visit = await world.life.arrive([card])
    assert [message for _, message in await visit.session.flashes()] == ["one", "two", "three"]
    await visit.commit()
    assert await (await world.life.arrive([card])).session.flashes() == []


async def test_a_template_shows_messages_without_await():
    """They are gone with the response, and what others leave meanwhile waits for the next page."""
    world = World()
    card = await world.begin("one")
    visit, other = await world.life.arrive([card]), await world.life.arrive([card])
    visit.session.flash("for this page", now=True)
    assert visit.session.show_flashes() == [("info", "one"), ("info", "for this page")]
    assert visit.session.show_flashes() == []
    other.session.flash("two")
    await other.commit()
    await visit.commit()
    visit = await world.life.arrive([card])
    assert visit.session.show_flashes() == [("info", "two")]
    visit.session.keep_flashes()
    await visit.commit()
    assert (await world.life.arrive([card])).session.show_flashes() == [("info", "two")]


async def test_a_template_without_messages_saves_nothing():
    """A page that looks for messages, and finds none, asks the store for nothing but the session."""
    world = World()
    card = await world.begin()
    before = dict(world.store._records)
    visit = await world.life.arrive([card])
    assert visit.session.show_flashes() == []
    await visit.commit()
    assert dict(world.store._records) == before
    visitor = world.life.anonymous()
    assert visitor.session.show_flashes() == []
    await visitor.commit()
    assert not visitor.card


async def test_a_page_that_could_not_be_saved_leaves_its_messages_waiting():
    """A request whose response failed has shown nothing."""
    world = World()
    card = await world.begin("one")
    visit = await world.life.arrive([card])
    update = world.store.update

    async def fails(*args, **kwargs):
        raise OSError

    world.store.update = fails
    assert visit.session.show_flashes() == [("info", "one")]
    with pytest.raises(StoreUnavailable):
        await visit.commit()
    world.store.update = update
    assert await (await world.life.arrive([card])).session.flashes() == [("info", "one")]
