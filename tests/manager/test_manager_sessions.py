"""What an app asks of a session manager beside load and commit, and how a manager is made."""

import os
import subprocess
import sys

import pytest

import roomkey
from roomkey import ConfigurationError, Session, SessionConfig, SessionManager, SessionMiddleware, Sessions
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from tests.manager.parts import SECRET, WaitingStore, begin, content, cookie_of, make, run_script, values

# --- manager.sessions -------------------------------------------------------------------------------------------------


async def test_a_users_sessions_can_be_listed_and_revoked():
    """`manager.sessions` is the app's, without a request."""
    manager = make()
    cookies = [await begin(manager, user_id=7) for _ in range(3)]
    await begin(manager, user_id=8)
    assert isinstance(manager.sessions, Sessions)
    found = await manager.sessions.of(7)
    assert len(found) == 3 and {info.user for info in found} == {"7"}
    session = await manager.load(cookies[0])
    assert await manager.sessions.revoke(session.handle, user=7)
    assert await manager.sessions.revoke_all(7, keep=await manager.load(cookies[1])) == 1
    assert [(await manager.load(cookie)).is_new for cookie in cookies] == [True, False, True]
    await manager.sessions.end_all()
    assert await manager.sessions.of(8) == []


async def test_a_revoked_session_is_over_for_a_request_under_way():
    """What it changes is lost, and it gives no cookie."""
    manager = make(WaitingStore())
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    await manager.sessions.revoke_all(7)
    session["n"] = 1
    assert values(await manager.commit(session), "set-cookie") == []
    assert (await manager.load(cookie)).is_new


def test_cookies_have_no_list():
    """With cookie:// nothing is kept on the server."""
    with pytest.raises(ConfigurationError, match="cookie://"):
        _ = make("cookie://").sessions
    with pytest.raises(ConfigurationError, match="cookie://"):
        _ = make("cookie://").sync.sessions


# --- what frameworks assign and call ----------------------------------------------------------------------------------


async def test_accessed_may_be_assigned():
    """Flask and Quart do so. The response then says that it depends on the cookie."""
    manager = make()
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    assert session.accessed is False
    session.accessed = True
    assert session.accessed is True and session.modified is False
    assert await manager.commit(session) == [("vary", "Cookie")]
    session = await manager.load(cookie)
    session.get("user_id")
    session.accessed = False
    assert session.accessed is False
    assert await manager.commit(session) == []


@pytest.mark.parametrize("mark", [lambda s: setattr(s, "modified", True), lambda s: s.mark_modified()])
async def test_a_session_that_is_marked_is_saved_as_it_is(mark):
    """For what Roomkey cannot see; it is saved once."""
    store = WaitingStore()
    manager = make(store)
    session = await manager.load(await begin(manager, user_id=7))
    mark(session)
    assert session.modified is True and session.accessed is True
    store.asked.clear()
    await manager.commit(session)
    assert store.asked == ["update"]
    assert session.modified is False
    await manager.commit(session)
    assert store.asked == ["update"]


async def test_a_mark_may_be_taken_back():
    """`modified = False` says that nothing was marked; what was changed is saved all the same."""
    store = WaitingStore()
    manager = make(store)
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    session.modified = True
    session.modified = False
    assert session.modified is False
    store.asked.clear()
    await manager.commit(session)
    assert store.asked == []
    session = await manager.load(cookie)
    session["n"] = 1
    session.modified = False
    assert session.modified is True
    await manager.commit(session)
    assert await content(manager, cookie) == {"user_id": 7, "n": 1}


async def test_marking_an_empty_session_makes_none():
    """A bot that never put anything into it costs no record."""
    store = WaitingStore()
    manager = make(store)
    session = await manager.load()
    session.mark_modified()
    assert values(await manager.commit(session), "set-cookie") == []
    assert store.asked == []


@pytest.mark.parametrize("awaited", [False, True])
async def test_regenerate_id_gives_a_new_id(awaited):
    """Some frameworks await it, others do not; there is nothing to wait for."""
    manager = make()
    cookie = await begin(manager, user_id=7)
    session = await manager.load(cookie)
    answer = session.regenerate_id()
    if awaited:
        assert await answer is None
    rotated = cookie_of(await manager.commit(session))
    assert rotated not in (None, cookie)
    assert (await manager.load(cookie)).is_new
    assert await content(manager, rotated) == {"user_id": 7}


async def test_regenerate_id_may_be_given_to_sync():
    """As everything that can be awaited."""
    manager = make(WaitingStore())
    cookie = await begin(manager, user_id=7)
    session = manager.sync.load(cookie)
    assert manager.sync.run(session.regenerate_id()) is None
    assert cookie_of(manager.sync.commit(session)) not in (None, cookie)
    manager.sync.close()


# --- remembered cards -------------------------------------------------------------------------------------------------


def remembered(manager):
    """Return how many cards a manager remembers."""
    return len(manager._loader.cards.young) + len(manager._loader.cards._old)


async def test_cards_are_remembered():
    """Without this, the two tests below would show nothing."""
    manager = make()
    cookie = await begin(manager, user_id=7)
    assert remembered(manager) == 0
    await manager.load(cookie)
    await manager.load(cookie)
    await manager.load("session=forged")
    assert remembered(manager) == 1


async def test_remembered_cards_go_with_a_change_of_keys():
    """A manager with other keys has seen no card: one of the old key's is refused, however often it was taken."""
    store = MemoryStore()
    old = SessionManager(secret_key="a" * 32, store=store)
    cookie = await begin(old, user_id=7)
    assert await content(old, cookie) == {"user_id": 7}
    new = SessionManager(secret_key="b" * 32, store=store)
    assert (await new.load(cookie)).is_new and remembered(new) == 0
    both = SessionManager(secret_key=["b" * 32, "a" * 32], store=store)
    session = await both.load(cookie)
    session.get("user_id")
    renewed = cookie_of(await both.commit(session))  # signed anew, with the first key
    assert renewed is not None and await content(new, renewed) == {"user_id": 7}
    assert (await new.load(cookie)).is_new


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_remembered_cards_go_with_a_fork(tmp_path):
    """A child begins with none, and the parent keeps its own."""
    said = run_script(
        """
        import os, sys
        from tests.manager.parts import cookie_of, make
        from tests.manager.test_manager_sessions import remembered

        manager = make(f"sqlite:///{sys.argv[1]}")
        session = manager.sync.load()
        session["user_id"] = 7
        cookie = cookie_of(manager.sync.commit(session))
        manager.sync.load(cookie)
        child = os.fork()
        if child == 0:
            print("child", remembered(manager), manager.sync.load(cookie)["user_id"], remembered(manager), flush=True)
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        print("parent", remembered(manager))
        """,
        tmp_path / "sessions.db",
    )
    assert said.split("\n") == ["child 0 7 1", "parent 1", ""]


# --- made -------------------------------------------------------------------------------------------------------------


def test_a_manager_takes_a_configuration_or_its_options():
    """The same names, and the same checks."""
    config = SessionConfig(secret_key=SECRET, store="memory://", max_age=60)
    assert SessionManager(config).config is config
    assert SessionManager(secret_key=SECRET, store="memory://", max_age=60).config.max_age == 60


_WRONG = [
    (lambda config: SessionManager(config, max_age=5), r"give a config or options, not both .*max_age"),
    (lambda config: SessionManager(), r"secret_key: missing"),
    (lambda config: SessionManager(SECRET), r"config: got str; it takes a roomkey.SessionConfig; give the key as sec"),
    (lambda config: SessionManager(SECRET.encode()), r"config: got bytes; .*secret_key="),
    (lambda config: SessionManager({"secret_key": SECRET}), r"config: got dict; it takes a roomkey.SessionConfig$"),
    (lambda config: SessionManager(SessionManager(config)), r"config: got SessionManager; it takes a roomkey"),
    (lambda config: SessionManager(secret_key=SECRET, ttl=5), r"ttl: no such option; did you mean max_age"),
    (lambda config: SessionManager(secret_key=SECRET, max_age=-5), r"max_age: got -5"),
    (lambda config: SessionManager(config, session_class=dict), r"session_class: got <class 'dict'>; it takes a subcl"),
    (lambda config: SessionManager(config, session_class=Session()), r"session_class: got .*; it takes a subclass"),
    (lambda config: SessionManager(config, session_class="Session"), r"session_class: got 'Session'"),
    (
        lambda config: SessionMiddleware(None, SessionManager(config), max_age=5),
        r"a manager or options, not both .*max_",
    ),
    (lambda config: SessionMiddleware(None, config, max_age=5), r"give a config or options, not both"),
    (lambda config: SessionMiddleware(None, SECRET), r"config: got str; .*secret_key="),
    (
        lambda config: SessionMiddleware(None, config=SessionManager),
        r"config: got type; it takes a roomkey.SessionConfig",
    ),
    (lambda config: Sessions(SECRET), r"Sessions: got str; it takes the app's SessionConfig"),
]


@pytest.mark.parametrize(("make_it", "message"), _WRONG, ids=lambda part: part if isinstance(part, str) else "")
def test_what_is_wrong_stops_the_start(make_it, message):
    """ConfigurationError names the argument, what it got and what it takes."""
    with pytest.raises(ConfigurationError, match=message):
        make_it(SessionConfig(secret_key=SECRET, store="memory://"))


def test_sessions_take_a_manager():
    """As the middleware's and the manager's own lists do."""
    manager = make()
    assert Sessions(manager)._registry is manager.registry is manager.sessions._registry


def test_neither_asyncio_nor_sync_is_imported_before_it_is_needed():
    """They take as long as all the rest of `import roomkey`."""
    code = (
        "import sys; from roomkey import SessionManager; "
        f"manager = SessionManager(secret_key='{SECRET}', store='memory://'); "
        "print([name for name in ('asyncio', 'roomkey.sync', 'gevent') if name in sys.modules]); "
        "manager.sync; print('roomkey.sync' in sys.modules, 'gevent' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(roomkey.__file__))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nTrue False\n"


async def test_several_managers_share_a_store(tmp_path):
    """Two processes, or two apps with one key: what one commits, the other loads."""
    one, other = (make(SQLiteStore(tmp_path / "sessions.db")) for _ in range(2))
    async with one, other:
        cookie = await begin(one, user_id=7)
        session = await other.load(cookie)
        session.clear()
        await other.commit(session)
        assert (await one.load(cookie)).is_new
