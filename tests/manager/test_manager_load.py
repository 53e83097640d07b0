"""`SessionManager.load`: a request, or its cookie header alone, in every form in which frameworks have them."""

import pytest

from roomkey import Request, Session, StoreUnavailable
from roomkey.stores.sqlite import SQLiteStore
from tests.manager.parts import WaitingStore, begin, cookie_of, make

_FORMS = {
    "str": lambda cookie: cookie,
    "bytes": lambda cookie: cookie.encode(),
    "headers of str": lambda cookie: Request(headers=[("Host", "shop.example"), ("Cookie", cookie)]),
    "headers of bytes": lambda cookie: Request(headers=[(b"host", b"shop.example"), (b"cookie", cookie.encode())]),
    "headers as lists": lambda cookie: Request(headers=[["COOKIE", cookie]]),
    "a generator": lambda cookie: Request(headers=(pair for pair in [("cookie", cookie)])),
    "among others": lambda cookie: f"a=1; {cookie}; b=2",
    "in the second header": lambda cookie: Request(headers=[("cookie", "a=1"), ("cookie", cookie)]),
}


@pytest.mark.parametrize("store", ["memory", "waiting", "sqlite", "cookie"])
@pytest.mark.parametrize("form", _FORMS)
async def test_a_request_brings_its_cookie_in_any_form(form, store, tmp_path):
    """The session is found from a cookie header alone, and from all headers, as str or as bytes."""
    stores = {"waiting": WaitingStore, "sqlite": lambda: SQLiteStore(tmp_path / "sessions.db")}
    manager = make("cookie://" if store == "cookie" else stores.get(store, lambda: None)())
    async with manager:
        cookie = await begin(manager, user_id=7)
        session = await manager.load(_FORMS[form](cookie))
        assert session == {"user_id": 7}


@pytest.mark.parametrize(
    "request_", [None, "", b"", "a=1", Request(), Request(headers=[("host", "shop.example")])], ids=repr
)
async def test_a_request_without_a_cookie_has_an_empty_session(request_):
    """Nothing there is a new session, for which the store is not asked."""
    store = WaitingStore()
    manager = make(store)
    session = await manager.load(request_)
    assert session == {} and session.is_new
    assert store.asked == []
    assert (await manager.load()).is_new


@pytest.mark.parametrize(
    "cookie", ["session=forged", b"session=\xff\xfe", "session=\u20ac", "session=é", "session"], ids=repr
)
async def test_a_bad_cookie_is_no_session(cookie):
    """What nobody signed is an anonymous request, whatever characters it has."""
    assert (await make().load(cookie)).is_new


async def test_what_is_no_request_is_refused():
    """A framework's own request, or a dict of headers, is an error that names what is taken."""
    manager = make()
    for wrong in (5, {"cookie": "session=x"}, [("cookie", "x")], object()):
        with pytest.raises(TypeError, match=r"load: got \w+; it takes a roomkey.Request, the value of a Cookie header"):
            await manager.load(wrong)
    for headers in ({"cookie": "session=x"}, "cookie", b"cookie", ["cookie"], [("a", "b", "c")]):
        with pytest.raises(TypeError, match=r"pairs of a name and a value, as `headers.items\(\)` gives them"):
            await manager.load(Request(headers=headers))
    for headers in ([("cookie", 5)], [(None, "x")]):
        with pytest.raises(TypeError, match="all are pairs of str, or all are pairs of bytes"):
            await manager.load(Request(headers=headers))


def test_a_request_hides_its_cookie():
    """The headers, with the cookie in them, are not in what a log shows of a request."""
    request = Request(kind="websocket", scheme="wss", path="/chat", headers=[("cookie", "session=secret")])
    assert "secret" not in repr(request) and "/chat" in repr(request)
    with pytest.raises(AttributeError):
        request.path = "/other"


async def test_the_client_is_recorded():
    """With `record_client`, the list of a user's sessions has the address and the user agent of the log-in."""
    manager = make(record_client=True)
    request = Request(headers=[("User-Agent", "a browser")], client=("192.0.2.7", 4321))
    session = await manager.load(request)
    session["user_id"] = 7
    await manager.commit(session)
    [info] = await manager.sessions.of(7)
    assert (info.ip, info.user_agent) == ("192.0.2.7", "a browser")


async def test_the_client_is_not_recorded_unasked():
    """Without `record_client`, nothing of it is kept."""
    manager = make()
    session = await manager.load(Request(headers=[("User-Agent", "a browser")], client=("192.0.2.7", 4321)))
    session["user_id"] = 7
    await manager.commit(session)
    [info] = await manager.sessions.of(7)
    assert (info.ip, info.user_agent) == (None, None)


async def test_the_first_genuine_cookie_counts():
    """A cookie that another site below the same domain has put before ours hides nothing."""
    manager = make(WaitingStore())
    cookie = await begin(manager, user_id=7)
    assert await manager.load(f"session=forged; {cookie}") == {"user_id": 7}
    assert await manager.load(Request(headers=[("cookie", "session=forged"), ("cookie", cookie)])) == {"user_id": 7}


async def test_a_store_that_is_down_is_an_error():
    """Whether there is a session cannot be known: StoreUnavailable, with the seconds after which to try again."""
    store = WaitingStore()
    manager = make(store)
    cookie = await begin(manager, user_id=7)
    store.failing.add("load")
    with pytest.raises(StoreUnavailable) as raised:
        await manager.load(cookie)
    assert raised.value.retry_after > 0
    assert (await manager.load()).is_new  # who brings no card needs no store


class Basket(Session):
    """A framework's own class."""

    __slots__ = ("note",)

    def total(self):
        return sum(self.get("prices", ()))


@pytest.mark.parametrize("store", ["memory://", "cookie://"])
async def test_sessions_are_of_the_class_that_was_asked_for(store):
    """`session_class` is what handlers get: new, loaded, anonymous for a bad cookie, and through `sync`."""
    manager = make(store, session_class=Basket)
    new = await manager.load()
    assert type(new) is Basket
    new["prices"] = [1, 2]
    new.note = "not saved"
    cookie = cookie_of(await manager.commit(new))
    loaded = await manager.load(cookie)
    assert type(loaded) is Basket and loaded.total() == 3
    assert type(await manager.load("session=forged")) is Basket
    assert type(manager.sync.load(cookie)) is Basket
