"""Subscribers that are `async def`: told beside the requests, in order, within bounds, and until the app ends."""

import asyncio
import contextvars
import threading

import pytest

from roomkey import SessionConfig, SessionManager, SessionMiddleware, events
from roomkey.core import deliveries
from tests.asgi import HELLO, http_scope, never, start

SECRET = "a secret that is long enough for every test here"


def make(on_event, **options):
    return SessionManager(secret_key=SECRET, store="memory://", on_event=on_event, **options)


async def log_in(manager, user=42):
    session = await manager.load()
    session["user_id"] = user
    await manager.commit(session)
    return session


class Hearing:
    """A subscriber that waits until it is let go on."""

    def __init__(self):
        self.told = []
        self.may_go = asyncio.Event()

    async def __call__(self, event):
        await self.may_go.wait()
        self.told.append(event)


async def test_no_response_waits_for_a_subscriber():
    """A request is answered while its event still waits, and the event is told afterwards."""
    hearing, sent = Hearing(), []

    async def app(scope, receive, send):
        scope["session"]["user_id"] = 42
        await start(send)
        await send(HELLO)

    async def send(message):
        sent.append(message["type"])

    manager = make(hearing)
    async with manager:
        await SessionMiddleware(app, manager)(http_scope(), never, send)
        assert sent == ["http.response.start", "http.response.body"] and hearing.told == []
        hearing.may_go.set()
    assert [type(event) for event in hearing.told] == [events.Created]


async def test_events_are_told_in_their_order():
    """One after the other, however long each takes."""
    told = []

    async def hear(event):
        await asyncio.sleep(0)
        told.append(event)

    manager = make(hear)
    async with manager:
        sessions = [await log_in(manager, user) for user in range(5)]
    assert told == [events.Created(session.handle, str(user)) for user, session in enumerate(sessions)]
    assert manager.dropped_events == 0


async def test_an_event_has_the_context_of_its_request():
    """What a request has set for itself is there when its event is told, as a tracer needs it."""
    number = contextvars.ContextVar("number", default=0)
    told = []

    async def hear(event):
        told.append(number.get())

    async def request(given):
        number.set(given)
        await log_in(manager)

    manager = make(hear)
    async with manager:
        await asyncio.gather(*(request(given) for given in (1, 2, 3)))
    assert sorted(told) == [1, 2, 3]


async def test_what_finds_the_queue_full_is_dropped_and_counted(monkeypatch, caplog):
    """The log says it once. What waits is told all the same."""
    monkeypatch.setattr(deliveries, "_MOST", 3)
    hearing = Hearing()
    manager = make(hearing)
    async with manager:
        for _ in range(8):
            await log_in(manager)
        hearing.may_go.set()
    assert len(hearing.told) + manager.dropped_events == 8 and manager.dropped_events >= 4
    assert len([record for record in caplog.records if "was not told to on_event" in record.message]) == 1


async def test_one_that_raises_is_logged(caplog):
    """The events after it are told, and sessions are not affected."""
    told = []

    async def hear(event):
        told.append(event)
        raise RuntimeError("no")

    manager = make(hear)
    async with manager:
        await log_in(manager)
        await log_in(manager)
    assert len(told) == 2 and "on_event raised for Created" in caplog.text


async def test_the_end_of_an_app_does_not_wait_for_ever(caplog):
    """A subscriber that never ends is cut off after `store_timeout`, and what was not told is counted."""
    hearing = Hearing()
    manager = make(hearing, store_timeout=0.05)
    async with manager:
        await log_in(manager)
        await log_in(manager)
    assert hearing.told == [] and manager.dropped_events == 2
    assert "was not told to on_event" in caplog.text


async def test_plain_and_awaited_subscribers_hear_the_same():
    """A manager may have both."""
    plain, awaited = [], []

    async def hear(event):
        awaited.append(event)

    manager = make(plain.append)
    manager.reporter.subscribe(hear)
    async with manager:
        await log_in(manager)
    assert plain == awaited and len(plain) == 1


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_blocking_code_is_not_kept_waiting(store, tmp_path):
    """Over `manager.sync`, events are told in the manager's own thread, and all of them before `close` returns."""
    told, may_go = [], threading.Event()

    async def hear(event):
        await asyncio.to_thread(may_go.wait)
        told.append((type(event), threading.current_thread() is threading.main_thread()))

    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path / 'sessions.sqlite3'}"
    manager = SessionManager(secret_key=SECRET, store=url, on_event=hear)
    manager.sync.load("session=forged")
    session = manager.sync.load()
    session["user_id"] = 42
    manager.sync.commit(session)
    assert told == []
    may_go.set()
    manager.sync.close()
    assert sorted(told, key=str) == [(events.Created, False), (events.Refused, False)]


def test_without_an_event_loop_nothing_is_told(caplog):
    """Nothing could run it: the event is counted, and the log says it once."""

    async def hear(event):
        raise AssertionError

    manager = make(hear)
    manager.reporter.report(events.Refused("card"))
    assert manager.dropped_events == 1
    assert "there is no event loop" in caplog.text


@pytest.mark.parametrize("hear", [Hearing.__call__, "hear"])
def test_on_event_takes_what_can_be_called(hear):
    """An `async def` is one, and a text is none."""
    if hear == "hear":
        with pytest.raises(ValueError, match=r"^on_event: "):
            SessionConfig(secret_key=SECRET, store="memory://", on_event=hear)
    else:
        assert SessionConfig(secret_key=SECRET, store="memory://", on_event=hear).on_event is hear
