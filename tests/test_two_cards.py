"""Two live cookies of our name in one browser, of two paths or domains: a log-out ends all that the request brought."""

import asyncio
import json

import pytest

from roomkey import Request, SessionMiddleware, StoreUnavailable
from roomkey.core.renewal import LATE
from roomkey.core.reply import Cookie
from roomkey.csrf import csrf_token
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from tests.asgi import HELLO, SECRET, SpyStore, ask, cookie_in, header, http_scope, start, websocket_scope
from tests.gate import Gate
from tests.world import World


async def _app(scope, receive, send):
    session, path = scope["session"], scope["path"]
    body = json.dumps(session.copy()).encode()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        session.clear()
        await session.save()
        await send({"type": "websocket.close"})
        return
    if path.startswith("/login"):
        session["user_id"] = 7
    elif path == "/cart":
        session["cart"] = 1
    elif path == "/clear":
        session.clear()
    elif path == "/invalidate":
        session.invalidate()
    elif path == "/begin":
        session.invalidate()
        session["cart"] = 2
    elif path == "/forms":
        session["user_id"] = 7
        csrf_token(session)
    elif path == "/delete":
        del session["user_id"]
    elif path == "/leave":
        del session["user_id"]
        session["cart"] = 3
    elif path == "/farewell":
        session.clear()
        session.flash("Good bye")
    elif path == "/put":
        session.clear()
        session["language"] = "en"
    elif path == "/token":
        session.clear()
        csrf_token(session)
    elif path == "/switch":
        session.invalidate()
        session["user_id"] = 8
    elif path == "/welcome":
        session.pop("cart", None)
    elif path == "/save":
        session.clear()
        await session.save()
    elif path == "/late":
        await start(send)
        session.clear()
        await send(HELLO)
        return
    elif path == "/retry":
        session.clear()
        for _ in range(5):
            try:
                await session.save()
            except StoreUnavailable:
                continue
            break
    await start(send)
    await send({"type": "http.response.body", "body": body})


def _store(kind, tmp_path):
    return {"memory": MemoryStore, "waits": SpyStore, "sealed": SpyStore}.get(
        kind, lambda: SQLiteStore(tmp_path / "sessions.sqlite3")
    )()


def _site(kind="waits", tmp_path=None, **options):
    return SessionMiddleware(
        _app, secret_key=SECRET, store=_store(kind, tmp_path), **{"seal": kind == "sealed", **options}
    )


def _scope(path, *cards, split=False, kind=http_scope):
    scope = kind(path)
    if split:  # as HTTP/2 may
        scope["headers"] += [(b"cookie", b"session=" + card) for card in cards]
    else:
        scope["headers"].append((b"cookie", b"; ".join(b"session=" + card for card in cards)))
    return scope


async def _log_in(site):
    return cookie_in((await ask(site, http_scope("/login")))[0])


async def _holds(site, card):
    return json.loads((await ask(site, _scope("/read", card)))[-1]["body"])


@pytest.mark.parametrize("kind", ["memory", "waits", "sqlite", "sealed"])
@pytest.mark.parametrize(
    "how",
    ["clear", "invalidate", "begin", "delete", "save", "late", "leave", "farewell", "put", "token", "switch"],
)
async def test_a_log_out_ends_all_that_the_request_brought(kind, how, tmp_path):
    """However the handler logs out, and whatever the store: neither cookie logs in again."""
    site = _site(kind, tmp_path)
    cards = [await _log_in(site) for _ in range(3)]
    other = await _log_in(site)
    await ask(site, _scope("/" + how, *cards, split=how == "clear"))
    assert [await _holds(site, card) for card in cards] == [{}, {}, {}]
    assert await _holds(site, other) == {"user_id": 7}
    if kind == "sqlite":
        await site.config.store.close()


async def test_a_user_who_leaves_forms_behind_has_left():
    """The session ends where nothing but the secret of the user's forms is left, and the other one with it."""
    site = _site()
    cards = [cookie_in((await ask(site, http_scope("/forms")))[0]) for _ in range(2)]
    await ask(site, _scope("/delete", *cards))
    assert [await _holds(site, card) for card in cards] == [{}, {}]


@pytest.mark.parametrize("kind", ["memory", "waits", "sqlite", "sealed"])
@pytest.mark.parametrize("how", ["clear", "invalidate", "begin", "farewell", "put", "token"])
async def test_a_log_out_in_a_session_of_nobody_ends_the_users(kind, how, tmp_path):
    """The user presses log out where the card of nobody's session comes first."""
    site = _site(kind, tmp_path)
    planted = cookie_in((await ask(site, http_scope("/cart")))[0])
    own = await _log_in(site)
    await ask(site, _scope("/" + how, planted, own))
    assert await _holds(site, own) == {}
    if kind == "sqlite":
        await site.config.store.close()


async def test_what_the_user_goes_on_with_stays():
    """The old ID opens the same session for a moment, and comes with it: the session is not ended by that."""
    world = World()
    before = await world.begin(cart=1)
    visit = await world.arrive(before)
    visit.session.rotate(grace=30)
    await visit.commit()
    leaving = await world.life.arrive([visit.card, before])
    leaving.session.clear()
    leaving.session["language"] = "en"
    await leaving.commit()
    assert await world.data(visit.card) == {"language": "en"}


@pytest.mark.parametrize("kind", ["memory", "waits", "sqlite", "sealed"])
async def test_a_session_of_nobody_that_is_emptied_logs_nobody_out(kind, tmp_path):
    """Whoever planted its card cannot have a page that takes its last key out end the user's own session."""
    site = _site(kind, tmp_path)
    planted = cookie_in((await ask(site, http_scope("/cart")))[0])
    own = await _log_in(site)
    await ask(site, _scope("/welcome", planted, own))
    assert await _holds(site, planted) == {}
    assert await _holds(site, own) == {"user_id": 7}
    if kind == "sqlite":
        await site.config.store.close()


async def test_without_a_user_key_an_emptied_session_is_a_log_out():
    """There nobody knows whose a session is."""
    site = _site(user_key=None)
    cards = [await _log_in(site) for _ in range(2)]
    await ask(site, _scope("/delete", *cards))
    assert [await _holds(site, card) for card in cards] == [{}, {}]


async def test_a_log_out_of_a_websocket_does_too():
    """A WebSocket brings the same cookies."""
    site = _site()
    cards = [await _log_in(site) for _ in range(2)]
    await ask(site, _scope("/", *cards, kind=websocket_scope))
    assert [await _holds(site, card) for card in cards] == [{}, {}]


async def test_what_is_no_log_out_ends_nothing():
    """A read, a write, and a log-in that rotates leave the other session alone."""
    site = _site()
    cards = [await _log_in(site) for _ in range(2)]
    for path in ("/read", "/cart", "/login"):
        await ask(site, _scope(path, *cards))
    assert [await _holds(site, card) for card in cards] == [{"user_id": 7, "cart": 1}, {"user_id": 7}]


async def test_one_cookie_that_comes_twice_is_one():
    """The same card for two paths is no second session."""
    site = _site()
    card = await _log_in(site)
    await ask(site, _scope("/cart", card, card))
    await ask(site, _scope("/clear", card, card))
    assert await _holds(site, card) == {}


@pytest.mark.parametrize(("how", "failing"), [("clear", 2), ("farewell", 1), ("leave", 1)])
async def test_a_store_that_fails_in_between_is_a_503(how, failing):
    """Where the other session cannot be ended, nobody is told that they are logged out; trying again ends it."""
    site = _site()
    store = site.config.store
    cards = [await _log_in(site) for _ in range(2)]
    inner, count = store.update, 0

    async def update(*args, **options):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError
        await inner(*args, **options)

    store.update = update
    sent = await ask(site, _scope("/" + how, *cards))
    assert sent[0]["status"] == 503
    assert not any(b"Max-Age=0" not in line for line in header(sent[0], b"set-cookie"))
    assert await _holds(site, cards[1]) == {"user_id": 7}
    await ask(site, _scope("/" + how, *cards))
    assert [await _holds(site, card) for card in cards] == [{}, {}]


@pytest.mark.parametrize("how", ["clear", "farewell", "leave"])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_write_without_an_answer_is_tried_again(how, lost):
    """A handler that saves until it worked has logged out of both, whichever write was not answered."""
    world = World()
    cards = [await world.begin(user_id=7, cart=1) for _ in range(2)]
    visit = await world.life.arrive(cards)
    count = 0

    def losing(inner):
        async def operation(*args, **options):
            nonlocal count
            await inner(*args, **options)
            count += 1
            if count == lost:
                raise OSError

        return operation

    world.store.update, world.store.rotate = losing(world.store.update), losing(world.store.rotate)
    if how == "leave":
        del visit.session["user_id"]
    else:
        visit.session.clear()
    if how == "farewell":
        visit.session.flash("Good bye")
    with pytest.raises(StoreUnavailable):
        await visit.session.save()
    await visit.session.save()
    await visit.commit()
    if how != "clear":
        assert visit.cookie is Cookie.GIVE
        assert await world.data(visit.card) == visit.session.copy()
    assert [await world.data(card) for card in cards] == [None, None]


async def test_a_save_that_is_tried_again_ends_the_rest():
    """A handler that saves until it worked has logged out of both."""
    site = _site()
    store = site.config.store
    cards = [await _log_in(site) for _ in range(2)]
    inner, count = store.update, 0

    async def update(*args, **options):
        nonlocal count
        count += 1
        if count in (2, 3):
            raise OSError
        await inner(*args, **options)

    store.update = update
    await ask(site, _scope("/retry", *cards))
    assert [await _holds(site, card) for card in cards] == [{}, {}]


async def test_a_change_under_way_does_not_save_the_other_session():
    """Another request saves it in the same moment: it is ended as it is then."""
    world = World()
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    visit = await world.life.arrive([one, two])
    other = await world.arrive(two)
    other.session["x"] = 1
    visit.session.clear()
    inner = world.store.load

    async def load(key):
        record = await inner(key)
        if key == other.key and record is not None and record.version == 1:
            await other.commit()
        return record

    world.store.load = load
    await visit.commit()
    assert [await world.data(card) for card in (one, two)] == [None, None]


async def _rotated(world, card, *, by="rotate"):
    """Return the new card of a session that another tab has rotated."""
    visit = await world.arrive(card)
    if by == "login":
        visit.session.clear()
        visit.session["user_id"] = 7
    else:
        getattr(visit.session, by)()
    await visit.commit()
    return visit.card


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("by", ["rotate", "reauthenticated", "login"])
async def test_what_another_tab_rotates_meanwhile_ends_too(by, seal):
    """The log-out is under way for long, and the user's other session gets a new ID, twice."""
    world = World(seal=seal)
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    leaving = await world.life.arrive([one, two])
    world.clock.advance(LATE + 1)
    rotated = await _rotated(world, two, by=by)
    world.clock.advance(LATE + 1)
    rotated = await _rotated(world, rotated, by=by)
    leaving.session.clear()
    await leaving.commit()
    assert await world.data(rotated) is None


async def test_what_rotates_in_the_moment_of_its_end_ends_too():
    """Another process rotates it after it was found."""
    world = World()
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    leaving = await world.life.arrive([one, two])
    leaving.session.clear()
    inner, rotated = world.store.update, []

    async def update(key, record, *, version):
        if key == leaving.key or rotated:
            return await inner(key, record, version=version)
        rotated.append(await _rotated(world, two))
        return await inner(key, record, version=version)

    world.store.update = update
    await leaving.commit()
    assert await world.data(rotated[0]) is None


@pytest.mark.parametrize(("since", "ends"), [(LATE - 1, True), (LATE + 1, False)])
async def test_an_old_card_ends_only_what_the_browser_may_not_know_of(since, ends):
    """A browser that sent its cookies before it had the new one logs out. A copy from long ago does not."""
    world = World()
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    rotated = await _rotated(world, two)
    world.clock.advance(since)
    leaving = await world.life.arrive([one, two])
    leaving.session.clear()
    await leaving.commit()
    assert await world.data(rotated) == (None if ends else {"user_id": 7})


async def test_what_another_user_took_over_meanwhile_stays():
    """It is followed no further than to the end of the user's own time."""
    world = World()
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    leaving = await world.life.arrive([one, two])
    other = await world.arrive(two)
    other.session["user_id"] = 8
    await other.commit()
    leaving.session.clear()
    await leaving.commit()
    assert await world.data(other.card) == {"user_id": 8}


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
async def test_a_planted_card_logs_nobody_out(moment):
    """Who planted a card, and brings it with one of their own, does not end the session that was logged into by it."""
    world = World()
    planted, own = await world.begin(cart=1), await world.begin(user_id=666)
    victim = await world.arrive(planted)
    victim.session["user_id"] = 7
    if moment == "before":
        await victim.commit()
    attacker = await world.life.arrive([own, planted])
    attacker.session.clear()
    if moment == "meanwhile":
        gate = Gate(world.store, "update")
        leaving = asyncio.create_task(attacker.commit())
        await gate.reached.wait()
        await victim.commit()
        gate.opened.set()
        await leaving
    else:
        await attacker.commit()
    assert await world.data(victim.card) == {"cart": 1, "user_id": 7}
    assert await world.data(own) is None


async def test_an_old_card_in_its_grace_opens_a_session_and_ends_it():
    """What is served still is ended."""
    world = World()
    one, two = await world.begin(user_id=7), await world.begin(user_id=7)
    visit = await world.arrive(two)
    visit.session.rotate(grace=30)
    await visit.commit()
    leaving = await world.life.arrive([one, two])
    leaving.session.clear()
    await leaving.commit()
    assert [await world.data(card) for card in (one, two, visit.card)] == [None, None, None]


# --- cookie:// --------------------------------------------------------------------------------------------------------


class Jar:
    """A browser's cookies of one host, each of its name, domain and path."""

    def __init__(self, host):
        self.host, self.cookies = host, {}

    def take(self, message):
        for line in header(message, b"set-cookie"):
            pair, *attributes = line.decode().split("; ")
            name, _, value = pair.partition("=")
            said = dict(each.partition("=")[::2] for each in attributes)
            domain = said.get("Domain")
            if domain is not None and self.host != domain and not self.host.endswith("." + domain):
                continue
            place = (name, domain, said["Path"])
            self.cookies.pop(place, None)
            if said.get("Max-Age") != "0":
                self.cookies[place] = value

    def headers(self, path):
        fitting = [
            (name, value)
            for (name, _, at), value in self.cookies.items()
            if path == at or path.startswith(at.rstrip("/") + "/")
        ]
        line = "; ".join(f"{name}={value}" for name, value in fitting)
        return [(b"host", self.host.encode() + b":8000")] + ([(b"cookie", line.encode())] if fitting else [])


async def _visit(site, jar, path):
    sent = await ask(site, {**http_scope(path), "headers": jar.headers(path)})
    jar.take(sent[0])
    return sent


@pytest.mark.parametrize(
    "others", [[{"path": "/shop"}], [{"domain": "example.com"}, {"path": "/shop/out", "domain": "www.example.com"}]]
)
@pytest.mark.parametrize("how", ["clear", "farewell", "leave"])
async def test_a_log_out_takes_all_cookies_back(others, how):
    """With `cookie://` the server has nothing to end: it takes back whatever the browser may hold for this page."""
    jar = Jar("www.example.com")

    async def app(scope, receive, send):
        if scope["path"].endswith("/login"):
            scope["session"]["user_id"] = 7
        elif scope["path"].endswith("/logout"):
            if how == "leave":
                del scope["session"]["user_id"]
                scope["session"]["cart"] = 1
            else:
                scope["session"].clear()
            if how == "farewell":
                scope["session"].flash("Good bye")
        await start(send)
        await send({"type": "http.response.body", "body": json.dumps(scope["session"].copy()).encode()})

    sites = [SessionMiddleware(app, secret_key=SECRET, store="cookie://", **options) for options in ({}, *others)]
    for site in sites:
        jar.take((await ask(site, http_scope("/login")))[0])
    assert len(jar.cookies) == len(sites)
    await _visit(sites[0], jar, "/shop/out/logout")
    assert len(jar.cookies) == (how != "clear")
    left = {"clear": {}, "farewell": {"_flashes": [["info", "Good bye"]]}, "leave": {"cart": 1}}[how]
    assert json.loads((await _visit(sites[0], jar, "/shop/out/page"))[-1]["body"]) == left


async def test_a_planted_cookie_of_nobody_takes_no_other_back():
    """With `cookie://` too, a page that empties a session of nobody logs nobody out."""
    site = SessionMiddleware(_app, secret_key=SECRET, store="cookie://")
    planted = cookie_in((await ask(site, http_scope("/cart")))[0])
    own = await _log_in(site)
    sent = await ask(site, _scope("/welcome", planted, own))
    assert len(header(sent[0], b"set-cookie")) == 1


async def test_a_path_writes_no_header_of_its_own():
    """Whatever stands in the URL, it ends neither the attribute nor the line."""
    site = SessionMiddleware(_app, secret_key=SECRET, store="cookie://")
    card = await _log_in(site)
    headers = [(b"host", b"evil.example.com;x\r\n"), (b"cookie", b"session=%s; session=%s" % (card, card))]
    manager = site.manager
    session = await manager.load(Request(path="/a;b\r\nSet-Cookie: x=y/" + "c/" * 50 + "\u00fc", headers=headers))
    session.clear()
    taken = [value for name, value in await manager.commit(session, raw=True) if name == b"set-cookie"]
    assert 2 < len(taken) <= 24 and sum(map(len, taken)) < 4096
    for line in taken:
        assert line.startswith(b"session=; Max-Age=0;") and b"\r" not in line and b"\n" not in line
        assert line.count(b"; ") == 5


async def test_one_cookie_is_taken_back_by_one_header():
    """The usual log-out says no more than before."""
    site = SessionMiddleware(_app, secret_key=SECRET, store="cookie://")
    card = await _log_in(site)
    sent = await ask(site, _scope("/clear", card))
    assert len(header(sent[0], b"set-cookie")) == 1
