"""Redis: the connections of our own, which are driven without the driver once it has logged them in."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator

import pytest

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Record
from roomkey.stores.redis import RedisStore, wire
from roomkey.stores.redis.wire import Wire
from tests.servers.redis import RedisServer


class Transport:
    """What was written, and whether it was aborted."""

    def __init__(self):
        self.written = b""
        self.aborted = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.aborted

    def abort(self):
        self.aborted = True


class Streams(asyncio.BaseProtocol):
    """The driver's protocol. It wants to know when the connection ends."""

    def __init__(self):
        self.lost = []

    def connection_lost(self, error):
        self.lost.append(error)


class Said(Exception):
    """What the driver makes of an error's text."""


def make_wire():
    transport, streams = Transport(), Streams()
    return Wire(transport, streams, Said), transport, streams


def run(scenario):
    def test():
        asyncio.run(scenario())

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    return test


@run
async def test_one_answer():
    """It is there in the moment in which the last of its bytes is."""
    line, transport, _ = make_wire()
    answer = line.exchange(b"GET x", 1)
    assert transport.written == b"GET x"
    for byte in b"$5\r\nhel\r\n\r\n"[:-1]:
        line.data_received(bytes([byte]))
        assert not answer.done()
    line.data_received(b"\n")
    assert await answer == [b"hel\r\n"]


@run
async def test_several_answers_in_order():
    """However they are cut into pieces, they are given together, with errors among them as values."""
    said = b"+OK\r\n:7\r\n-NOPERM not you\r\n*2\r\n$1\r\na\r\n$-1\r\n"
    for cut in range(len(said)):
        line, _, _ = make_wire()
        answers = line.exchange(b"", 4)
        line.data_received(said[:cut])
        assert not answers.done()
        line.data_received(said[cut:])
        ok, seven, error, pair = await answers
        assert (ok, seven, pair) == (b"OK", 7, [b"a", None])
        assert isinstance(error, Said) and str(error) == "NOPERM not you"


@run
async def test_one_round_trip_after_the_other():
    """Each gets its own answers."""
    line, _, _ = make_wire()
    for number in range(1, 4):
        answers = line.exchange(b"", number)
        line.data_received(b":%d\r\n" % number * number)
        assert await answers == [number] * number


@run
async def test_a_connection_that_breaks_in_between():
    """The answers that came count; an exception stands for each that did not. The driver learns of it too."""
    for error in (None, ConnectionResetError("by the server")):
        line, _, streams = make_wire()
        answers = line.exchange(b"", 3)
        line.data_received(b":1\r\n:2")
        line.connection_lost(error)
        first, *lost = await answers
        assert first == 1 and len(lost) == 2 and all(isinstance(one, ConnectionError) for one in lost)
        assert streams.lost == [error]


@run
async def test_what_nobody_asked_for():
    """It ends the connection: the next answers would not be to the next commands."""
    line, transport, _ = make_wire()
    line.data_received(b"-ERR idle for too long\r\n")
    assert transport.aborted
    line, transport, _ = make_wire()
    answers = line.exchange(b"", 1)
    line.data_received(b":1\r\n:2\r\n")
    assert transport.aborted and isinstance((await answers)[0], ConnectionError)


@run
async def test_another_protocol():
    """What cannot be read ends the connection, and stands for every answer."""
    line, transport, _ = make_wire()
    answers = line.exchange(b"", 2)
    line.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    assert transport.aborted
    assert [isinstance(answer, ConnectionError) for answer in await answers] == [True, True]


@run
async def test_who_waits_no_longer():
    """An answer that comes after all disturbs nobody."""
    line, _, _ = make_wire()
    answers = line.exchange(b"", 1)
    answers.cancel()
    line.data_received(b":1\r\n")
    line.connection_lost(None)


# With a server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def use(store):
    """Every operation once."""
    key, new = secrets.token_hex(32), secrets.token_hex(32)
    now = time.time()
    await store.open()
    await store.create(key, Record(b"1", 1, now, now + 100, "ann"))
    with pytest.raises(Conflict):
        await store.create(key, Record(b"1", 1, now, now + 100))
    await store.update(key, Record(b"2", 2, now, now + 100, "ann"), version=1)
    assert await store.touch(key, now + 200)
    moved = Record(b"", 3, now, now + 100, "ann", new)
    await store.rotate(key, new, Record(b"3", 3, now, now + 200, "ann"), moved, version=2)
    found = await asyncio.gather(*(store.load(key) for key in (key, new) * 50))
    assert [record.data for record in found] == [b"", b"3"] * 50
    assert [key for key, _ in await store.of_user("ann")] == [new]
    await store.delete(new)
    assert await store.load(new) is None


def wires(store):
    return {line._wire for line in store._links[asyncio.get_running_loop()]._connections._all}


def test_a_connection_is_taken_over(server):
    """The driver makes the connections of our own, and the store drives them."""

    async def main():
        store = RedisStore(server.url, prefix=f"{{{secrets.token_hex(4)}}}:")
        await use(store)
        assert all(isinstance(one, Wire) for one in wires(store))
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("options", ["protocol=3", "socket_timeout=5", "protocol=3&socket_timeout=5"])
def test_options_that_the_driver_has_to_see_to(server, options):
    """With them the driver carries the round trips itself."""

    async def main():
        store = RedisStore(f"{server.url}?{options}", prefix=f"{{{secrets.token_hex(4)}}}:")
        await use(store)
        assert wires(store) == {None}
        await store.close()

    asyncio.run(main())


def test_without_hiredis(server, monkeypatch):
    """Where the parser in C is not installed, the driver carries the round trips itself."""
    monkeypatch.setattr(wire, "hiredis", None)

    async def main():
        store = RedisStore(server.url, prefix=f"{{{secrets.token_hex(4)}}}:")
        await use(store)
        assert wires(store) == {None}
        await store.close()

    asyncio.run(main())


def test_closed_while_a_round_trip_is_under_way():
    """What was asked is StoreUnavailable, and `close` does not wait for a server that says nothing."""

    async def main():
        with RedisServer() as own:
            store = RedisStore(own.url)
            await asyncio.gather(store.load("a" * 64), store.delete("a" * 64))  # both are connected
            own.pause()
            load = asyncio.create_task(store.load("a" * 64))
            write = asyncio.create_task(store.delete("a" * 64))
            await asyncio.sleep(0)
            await store.close()
            outcomes = await asyncio.gather(load, write, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            own.resume()

    asyncio.run(main())


def test_a_connection_that_cannot_be_written_to(server, monkeypatch):
    """uvloop raises where a transport is closed. A write is then StoreUnavailable, and the next one works."""

    async def main():
        store = RedisStore(server.url, prefix=f"{{{secrets.token_hex(4)}}}:")
        await store.delete("a" * 64)
        with monkeypatch.context() as patched, pytest.raises(StoreUnavailable, match="cannot be reached"):
            patched.setattr(Wire, "exchange", lambda *_: (_ for _ in ()).throw(RuntimeError("the handler is closed")))
            await store.delete("a" * 64)
        await use(store)
        await store.close()

    asyncio.run(main())
