"""SessionStore: Django's API of sessions, blocking and awaited, without a request."""

import datetime as dt
import types
import uuid

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.db import models
from django.test import override_settings
from django.utils import timezone

from roomkey import SessionDataError, SessionManager, StoreUnavailable
from roomkey.django import SessionStore, get_manager
from roomkey.errors import LoginTooOld, SessionEnded
from roomkey.stores.memory import MemoryStore
from roomkey.testing import Clock
from tests import django_settings
from tests.manager.parts import WaitingStore
from tests.stores.told import ToldStore, elsewhere

EXPIRY = "_session_expiry"


@pytest.fixture(autouse=True, params=[MemoryStore, WaitingStore], ids=["in place", "waits"])
def store(request):
    store = request.param()
    with override_settings(**django_settings.HERE, ROOMKEY={"store": store}):
        yield store
        get_manager().sync.close()


def saved(**content):
    session = SessionStore()
    session.update(content)
    session.save()
    return session


def content(key):
    return dict(SessionStore(key).items())


# --- a dictionary -----------------------------------------------------------------------------------------------------


def test_it_reads_and_writes_as_djangos_sessions_do():
    """Each method of Django's, with `accessed` and `modified` as they are there."""
    session = SessionStore()
    assert not session.accessed and not session.modified and session.session_key is None and session.is_empty()
    assert session.get("a") is None and session.get("a", 1) == 1 and session.accessed and not session.modified
    session["a"] = [1]
    assert session.modified and session["a"] == [1] and "a" in session and session.has_key("a")
    session.modified = False
    assert session.setdefault("a", 2) == [1] and not session.modified
    assert session.setdefault("b", 2) == 2 and session.modified
    session.update({"c": 3})
    assert list(session.keys()) == ["a", "b", "c"] and list(session.values()) == [[1], 2, 3]
    assert session.pop("c") == 3 and session.pop("c", 4) == 4
    with pytest.raises(KeyError):
        session.pop("c")
    del session["b"]
    assert list(session.items()) == [("a", [1])] and not session.is_empty()
    session.clear()
    assert session.is_empty() and session.modified
    with pytest.raises(KeyError):
        session["a"]


async def test_it_is_awaited_as_djangos_sessions_are():
    """The same, for coroutines."""
    session = SessionStore()
    assert await session.aget("a", 1) == 1 and not session.modified
    await session.aset("a", 1)
    assert session.modified and await session.aget("a") == 1 and await session.ahas_key("a")
    assert await session.asetdefault("b", 2) == 2
    await session.aupdate({"c": 3})
    assert list(await session.akeys()) == ["a", "b", "c"] and list(await session.avalues()) == [1, 2, 3]
    assert await session.apop("c") == 3 and await session.apop("c", 4) == 4
    assert list(await session.aitems()) == [("a", 1), ("b", 2)]
    assert await session.achange("a", lambda value: value + 1) == 2
    await session.asave()
    other = SessionStore(session.session_key)
    assert await other.aget("a") == 2 and await other.aload() == {"a": 2, "b": 2}
    assert await other.aexists(session.session_key)
    await other.aflush()
    assert other.session_key is None and not await other.aexists(session.session_key)


def test_cookies_that_try_the_browser():
    """`set_test_cookie` and its kin."""
    session = SessionStore()
    session.set_test_cookie()
    session.save()
    again = SessionStore(session.session_key)
    assert again.test_cookie_worked()
    again.delete_test_cookie()
    assert not again.test_cookie_worked()


async def test_cookies_that_try_the_browser_awaited():
    """The same, for coroutines."""
    session = SessionStore()
    await session.aset_test_cookie()
    assert await session.atest_cookie_worked()
    await session.adelete_test_cookie()
    assert not await session.atest_cookie_worked()


def test_what_cannot_be_stored():
    """It is an error of `save`, and nothing of the session is saved."""
    session = saved(a=1)
    session["a"], session["b"] = 2, object()
    with pytest.raises(SessionDataError):
        session.save()
    assert content(session.session_key) == {"a": 1}


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_key_opens_the_session():
    """It comes with the first `save`, and stays with the next."""
    session = saved(a=1)
    key = session.session_key
    assert session.exists(key) and content(key) == {"a": 1} and session.handle and session.handle not in key
    session["a"] = 2
    session.save()
    assert session.session_key == key and content(key) == {"a": 2}


@pytest.mark.parametrize("key", ["unknown-key-of-nobody", "short", "a; b=c", "ü" * 20, None])
def test_a_key_that_opens_nothing(store, key):
    """It is never adopted, and to look for it writes nothing."""
    session = SessionStore(key)
    assert session.get("a") is None and session.session_key is None and not session.exists(key)
    assert not store._records
    session["a"] = 1
    session.save()
    assert session.session_key not in (key, None)


def test_an_empty_session_is_saved_all_the_same():
    """Apps save one to have a key for a visitor: `if not request.session.session_key: request.session.create()`."""
    for make in (SessionStore.save, SessionStore.create):
        session = SessionStore()
        make(session)
        assert session.exists(session.session_key) and session.modified and not session.is_empty()
        session["a"] = 1
        session.save()
        assert content(session.session_key)["a"] == 1


async def test_an_empty_session_is_created_in_a_coroutine():
    """The same, for coroutines."""
    session = SessionStore()
    await session.acreate()
    assert await session.aexists(session.session_key)


def test_a_new_key_for_the_same_data():
    """`cycle_key`: the old key is dead, as soon as somebody looks."""
    session = saved(a=1)
    key = session.session_key
    session.cycle_key()
    assert not session.exists(key) and session.session_key != key
    assert content(session.session_key) == {"a": 1} and content(key) == {}
    key = session.session_key
    session.cycle_key()
    assert session.session_key != key  # what looks at the key saves first
    fresh = SessionStore()
    fresh.cycle_key()
    assert fresh.exists(fresh.session_key)  # as in Django, for those who keep a list of keys at each log-in


async def test_a_new_key_in_a_coroutine():
    """The same, for coroutines."""
    session = SessionStore()
    await session.aset("a", 1)
    await session.asave()
    key = session.session_key
    await session.acycle_key()
    assert not await session.aexists(key) and session.session_key != key
    assert await SessionStore(session.session_key).aload() == {"a": 1}


def test_a_log_in_changes_the_key():
    """Also where nobody calls `cycle_key`: another user is another key."""
    session = saved(a=1)
    key = session.session_key
    session["_auth_user_id"] = "7"
    session.save()
    assert session.session_key != key and content(key) == {}
    assert [info.user for info in get_manager().sync.sessions.of(7)] == ["7"]


@pytest.mark.parametrize("key", [7, "ann@example.com", uuid.UUID(int=7)], ids=str)
def test_users_with_primary_keys_of_any_kind(key):
    """Django keeps the key as its field's `value_to_string` has it, and lists are asked with the key itself."""
    field = {int: models.AutoField, str: models.CharField, uuid.UUID: models.UUIDField}[type(key)](primary_key=True)
    field.attname = "pk"
    session = saved(a=1)
    session["_auth_user_id"] = field.value_to_string(types.SimpleNamespace(pk=key))
    session.save()
    sessions = get_manager().sync.sessions
    assert [info.is_current for info in sessions.of(key, current=session)] == [True]
    assert sessions.revoke_all(key, keep=session) == 0 and sessions.revoke_all(key) == 1


def test_to_create_is_to_copy():
    """`create` on a session with content files that under a new key, and the old one stays good."""
    session = saved(a=1)
    key = session.session_key
    session["b"] = 2
    session.create()
    assert session.session_key != key
    assert content(key) == {"a": 1} and content(session.session_key) == {"a": 1, "b": 2}


def test_to_copy_a_session_that_has_ended_meanwhile():
    """A log-out is final: `create` in a request that was running brings nothing back, also after its `save` failed."""
    for fails_before in (False, True):
        session = saved(_auth_user_id="7")
        key = session.session_key
        SessionStore(key).flush()
        if fails_before:
            session["a"] = 1
            with pytest.raises(UpdateError):
                session.save()
        with pytest.raises(UpdateError):
            session.create()
        assert session.session_key is None and not session.exists(key)
        assert get_manager().sync.sessions.of("7") == []


async def test_to_copy_a_session_that_has_ended_meanwhile_in_a_coroutine():
    """The same, for coroutines."""
    session = SessionStore()
    await session.aset("_auth_user_id", "7")
    await session.asave()
    await SessionStore(session.session_key).aflush()
    with pytest.raises(UpdateError):
        await session.acreate()
    assert await get_manager().sessions.of("7") == []


def test_to_copy_a_session_that_has_ended_where_sessions_are_kept_near():
    """A log-out in another process, of which no message has come so far, is final for `create` and for `exists`."""
    store = ToldStore()
    with override_settings(ROOMKEY={"store": store, "near_cache": 100}):
        there = SessionManager(get_manager().config)
        session = saved(_auth_user_id="7")
        key = session.session_key
        assert content(key) == {"_auth_user_id": "7"}
        with elsewhere():
            there.sync.sessions.revoke_all("7")
        assert content(key) == {"_auth_user_id": "7"}, "it was not served from memory"
        with pytest.raises(UpdateError):
            session.create()
        assert not SessionStore().exists(key)
        assert there.sync.sessions.of("7") == []
        there.sync.close()
        get_manager().sync.close()


def test_to_delete_a_session_and_create_it_anew():
    """The request itself knows what it has ended. What it then files is a new session."""
    session = saved(a=1)
    session.delete()
    session.create()
    assert content(session.session_key) == {"a": 1}


# --- the end ----------------------------------------------------------------------------------------------------------


def test_to_flush_is_to_log_out():
    """At once, not only with the response; what is put in then is another session."""
    session = saved(a=1)
    key = session.session_key
    session.flush()
    assert session.session_key is None and session.modified and session.is_empty() and content(key) == {}
    session["b"] = 2
    session.save()
    assert session.session_key != key and content(session.session_key) == {"b": 2}


def test_to_delete_a_session():
    """By its key, or by its own object; twice is once."""
    one, other = saved(a=1), saved(b=1)
    SessionStore().delete(one.session_key)
    SessionStore().delete(one.session_key)
    SessionStore().delete()
    other.delete()
    assert content(one.session_key) == {} == content(other.session_key)


async def test_to_delete_a_session_in_a_coroutine():
    """The same, for coroutines."""
    session = SessionStore()
    await session.asave()
    await session.adelete()
    assert not await session.aexists(session.session_key)


@pytest.mark.parametrize("end", [SessionStore.delete, SessionStore.flush])
def test_a_session_that_ended_is_not_revived(end):
    """Who had loaded it before gets an UpdateError, which says why."""
    session = saved(a=1)
    end(SessionStore(session.session_key))
    session["a"] = 2
    with pytest.raises(UpdateError) as caught:
        session.save()
    assert isinstance(caught.value.__cause__, SessionEnded) and session.load() == {}


async def test_a_session_that_ended_is_not_revived_by_a_coroutine():
    """The same, for coroutines."""
    session = SessionStore()
    await session.aset("a", 1)
    await session.asave()
    await SessionStore(session.session_key).adelete()
    await session.aset("a", 2)
    with pytest.raises(UpdateError):
        await session.asave()
    assert await session.aload() == {}


def test_changes_of_several_are_merged():
    """Two that loaded one session each keep what they changed."""
    key = saved(a=1).session_key
    one, other = SessionStore(key), SessionStore(key)
    one["b"], other["c"] = 2, 3
    for each in (one, other):
        assert each.change("n", lambda n: n + 1, default=0) == 1
        each.save()
    assert content(key) == {"a": 1, "b": 2, "c": 3, "n": 2}


async def test_expired_sessions_are_removed(store):
    """`clear_expired`, and awaited."""
    clock = Clock()
    expiring = type(store)(clock=clock)
    with override_settings(ROOMKEY={"store": expiring, "clock": clock}):
        await SessionStore().asave()
        await SessionStore.aclear_expired()
        assert len(expiring._records) == 1
        clock.advance(1209601)
        await SessionStore.aclear_expired()
        assert not expiring._records
        await SessionStore().asave()
        clock.advance(1209601)
        SessionStore.clear_expired()
        assert not expiring._records
        get_manager().sync.close()


# --- how long it lives ------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(store):
    clock = Clock()
    with override_settings(ROOMKEY={"store": type(store)(clock=clock), "clock": clock}, SESSION_COOKIE_AGE=1000):
        yield clock
        get_manager().sync.close()


def alive(session):
    """Return whether the session is there, without renewing it."""
    return SessionStore().exists(session.session_key)


def test_an_expiry_in_seconds(clock):
    """It counts from the last use, and `None` takes it back."""
    session = saved(a=1)
    session.set_expiry(100)
    session.save()
    assert session.get_expiry_age() == 100 and not session.get_expire_at_browser_close()
    clock.advance(99)
    assert alive(session)
    again = SessionStore(session.session_key)
    again["a"] = 2
    again.save()
    clock.advance(99)
    assert alive(again)
    again.set_expiry(None)
    again.save()
    assert again.get_expiry_age() == 1000
    clock.advance(999)
    assert alive(again)
    clock.advance(2)
    assert not alive(again)


def test_an_expiry_at_a_moment(clock):
    """A date or a span: no use moves it, and a log-in does not either."""
    session = saved(a=1)
    session.set_expiry(dt.timedelta(seconds=500))
    session["_auth_user_id"] = "7"
    session.save()
    assert 490 < session.get_expiry_age() <= 500
    for _ in range(4):
        clock.advance(100)
        used = SessionStore(session.session_key)
        used["a"] += 1
        used.save()
    assert alive(used)
    clock.advance(101)
    assert not alive(used)
    session = saved(a=1)
    session.set_expiry(timezone.now() + dt.timedelta(seconds=50))
    session.save()
    clock.advance(51)
    assert not alive(session)


@pytest.mark.parametrize("past", [-10, dt.timedelta(seconds=-10)], ids=str)
def test_an_expiry_in_the_past(past):
    """The session ends when it is saved."""
    session = saved(a=1)
    key = session.session_key
    session.set_expiry(past)
    session.save()
    assert session.session_key is None and content(key) == {}


def test_an_expiry_with_the_browser(clock):
    """`set_expiry(0)`: the server's age holds, and the setting says what holds without it."""
    session = saved(a=1)
    session.set_expiry(0)
    session.save()
    assert session.get_expire_at_browser_close() and session.get_expiry_age() == 1000
    clock.advance(999)
    assert alive(session)
    clock.advance(2)
    assert not alive(session)
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        assert SessionStore().get_expire_at_browser_close()


async def test_expiries_in_coroutines(clock):
    """`aset_expiry` and what reads it."""
    session = SessionStore()
    await session.aset_expiry(100)
    assert await session.aget_expiry_age() == 100 and not await session.aget_expire_at_browser_close()
    moment = timezone.now()
    assert await session.aget_expiry_date(modification=moment) == moment + dt.timedelta(seconds=100)
    await session.asave()
    clock.advance(101)
    assert not await session.aexists(session.session_key)


# --- what Roomkey adds ------------------------------------------------------------------------------------------------


def test_what_it_knows_of_the_session():
    """Its public name, its moments, and when the user last logged in."""
    session = saved(a=1)
    assert not session.is_new and session.authenticated_at is None and session.created_at < session.expires_at
    with pytest.raises(LoginTooOld):
        session.require_recent(60)
    session["_auth_user_id"] = "7"
    session.save()
    handle, key = session.handle, session.session_key
    session.require_recent(60)
    assert session.authenticated_at is not None
    assert SessionStore(key).handle == handle
    session.reauthenticated()
    assert session.session_key != key and session.handle != handle


def test_a_look_is_no_use(clock):
    """`peek` renews nothing."""
    session = saved(a=[1])
    clock.advance(900)
    looks = SessionStore(session.session_key)
    assert looks.peek("a") == [1] and looks.peek("b", 2) == 2
    looks.save()
    clock.advance(101)
    assert not alive(session)


def test_an_outage():
    """StoreUnavailable comes out of each call, and the next one asks again where no request is waiting."""
    store = WaitingStore()
    with override_settings(ROOMKEY={"store": store}):
        key = saved(a=1).session_key
        session = SessionStore(key)
        store.failing = {"load"}
        for call in (session.load, session.flush, session.delete, lambda: session.exists(key)):
            with pytest.raises(StoreUnavailable):
                call()
        store.failing = set()
        assert session["a"] == 1
        get_manager().sync.close()
