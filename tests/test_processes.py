"""Several processes, one store: what always holds, against real uvicorn workers that share nothing else."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import roomkey
from roomkey.stores.postgres import PostgresStore
from roomkey.stores.sqlalchemy import SQLAlchemyStore
from tests.loop_clock import HANGS, until
from tests.process_app import LIMIT
from tests.servers.mariadb import MariaDBServer
from tests.servers.parts import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(roomkey.__file__).resolve().parent.parent


pytestmark = pytest.mark.usefixtures("tidy")


class Server:
    """Two uvicorn workers in a process group of their own."""

    def __init__(self, directory, store=None):
        self._store = store or f"sqlite:///{directory}/sessions.db"
        self._log = directory / "uvicorn.log"
        self._process = None
        self.url = ""

    def start(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "ROOMKEY_TEST_STORE": self._store,
            "PYTHONPATH": os.pathsep.join([str(SOURCE), str(ROOT)]),
        }
        command = [sys.executable, "-m", "uvicorn", "tests.process_app:app", "--workers", "2", "--port", str(port)]
        command += ["--log-level", "warning", "--no-access-log", "--backlog", "2048"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        asyncio.run(self._until_both_answer())

    async def _until_both_answer(self):
        deadline = time.monotonic() + HANGS
        seen = set()
        while len(seen) < 2:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            async with self.client() as client:
                answers = await asyncio.gather(*(client.get("/who") for _ in range(12)), return_exceptions=True)
            for answer in answers:
                if isinstance(answer, httpx.Response):
                    seen.add(answer.json()["pid"])
                else:
                    assert isinstance(answer, httpx.TransportError), answer
            await asyncio.sleep(0.05)

    def client(self, card=None):
        """A client that sends `card` and forgets every cookie it is given."""
        headers = {"cookie": f"session={card}"} if card else {}
        limits = httpx.Limits(max_connections=40, max_keepalive_connections=40)
        return httpx.AsyncClient(base_url=self.url, headers=headers, limits=limits, timeout=HANGS, trust_env=False)

    async def at_once(self, count, page, card=None):
        """Return the answers to `count` requests at once, or to some times as many: until both workers had a part.

        The kernel hands out the connections, and may give all of them to one.

        Args:
            count: how many at once.
            page: returns the path, given the request's number.
            card: what they send.
        """
        answers = []
        for _ in range(50):
            async with self.client(card) as client:
                numbers = range(len(answers), len(answers) + count)
                answers += await asyncio.gather(*(client.get(page(number)) for number in numbers))
            assert {answer.status_code for answer in answers} == {200}
            if len({answer.json()["pid"] for answer in answers}) == 2:
                return answers
        raise AssertionError("one worker takes all connections")

    async def log_in(self, user="ada"):
        async with self.client() as client:
            answer = await client.get("/login", params={"user": user})
        assert answer.status_code == 200
        return answer.cookies["session"]

    async def read(self, card):
        async with self.client(card) as client:
            answer = await client.get("/read")
        assert answer.status_code == 200
        return answer.json()["data"]

    def kill(self):
        """Kill -9, the whole group."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=HANGS)
        deadline = time.monotonic() + HANGS
        while time.monotonic() < deadline:  # the workers are nobody's children by now
            try:
                os.killpg(process.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.02)


@pytest.fixture(scope="module", params=["sqlite", "redis", "postgres", "mariadb"])
def server(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        store = None
        if request.param == "redis":
            store = stack.enter_context(RedisServer()).url
        elif request.param == "postgres":
            store = stack.enter_context(PostgresServer()).url
            asyncio.run(_make_table(PostgresStore(store)))
        elif request.param == "mariadb":
            store = "sqlalchemy+" + stack.enter_context(MariaDBServer()).url.replace("mysql://", "mysql+asyncmy://")
            asyncio.run(_make_table(SQLAlchemyStore(store)))
        running = Server(tmp_path_factory.mktemp("processes"), store)
        stack.callback(running.kill)
        running.start()
        yield running


async def _make_table(store):
    await store.create_table()
    await store.close()


async def test_concurrent_writers_of_different_keys_all_survive(server):
    """Hundreds of requests at once, on one session and over two processes, each keep the key that they wrote."""
    card = await server.log_in()
    answers = await server.at_once(300, lambda number: f"/put?key=k{number}&value=v{number}", card)
    written = {f"k{number}": f"v{number}" for number in range(len(answers))}
    assert await server.read(card) == {"user_id": "ada"} | written


async def test_concurrent_increments_add_up(server):
    """Hundreds of concurrent increments through `change` add as many, across processes."""
    card = await server.log_in()
    answers = await server.at_once(200, lambda number: "/count", card)
    assert (await server.read(card))["count"] == len(answers)


@pytest.mark.parametrize("answered", [3, 9, 15])
async def test_a_log_out_that_races_with_writers_is_final(server, tmp_path, answered):
    """A log-out answered while writers are under way ends the session for good: none of them brings it back."""
    card = await server.log_in()
    flag = tmp_path / "logged out"
    async with server.client(card) as client, server.client(card) as leaving:
        writers = []
        for number in range(40):
            when = {"wait": f"{number % 10 / 20}"} if number % 4 else {"until": str(flag)}
            put = client.get("/put", params={"key": f"k{number}", "value": "x", **when})
            writers.append(asyncio.create_task(put))
        await until(lambda: sum(task.done() for task in writers) >= answered)
        answer = await leaving.get("/logout")
        assert answer.status_code == 200
        assert not all(task.done() for task in writers)
        assert await server.read(card) == {}
        flag.touch()
        answers = await asyncio.gather(*writers)
    assert {answer.status_code for answer in answers} <= {200, 401}
    assert await server.read(card) == {}
    async with server.client(card) as client:
        assert (await client.get("/put", params={"key": "late", "value": "x"})).status_code == 401


async def test_the_limit_of_a_users_sessions_is_exact(server):
    """Of sixty log-ins of one user at once, over two processes, exactly as many sessions are left as are allowed."""
    answers = await server.at_once(60, lambda number: "/login?user=many")
    # Whose session another log-in had ended before the answer left gets no card at all.
    cards = [answer.cookies["session"] for answer in answers if "session" in answer.cookies]
    found = await asyncio.gather(*(server.read(card) for card in cards))
    assert sorted(map(len, found)) == [0] * (len(cards) - LIMIT) + [1] * LIMIT


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    """After kill -9 of every process in the middle of writing, a restart finds each write that had been answered."""
    server = Server(tmp_path)
    acknowledged = {}

    async def write_until_killed(cards):
        async def writer(card, name):
            async with server.client(card) as client:
                for number in range(10_000):
                    key = f"{name}-{number}"
                    try:
                        answer = await client.get("/put", params={"key": key, "value": str(number)})
                    except httpx.TransportError:
                        return
                    if answer.status_code != 200:
                        return
                    acknowledged.setdefault(card, {})[key] = str(number)

        writing = [asyncio.create_task(writer(card, f"w{index}")) for index, card in enumerate(cards * 2)]
        await until(lambda: all(len(acknowledged.get(card, ())) >= 10 for card in cards))
        assert not any(task.done() for task in writing)
        await asyncio.to_thread(server.kill)
        await asyncio.gather(*writing)

    async def log_in():
        return [await server.log_in(f"user{number}") for number in range(4)]

    async def check(cards):
        for card in cards:
            found = await server.read(card)
            assert acknowledged[card].items() <= found.items()

    try:
        server.start()
        cards = asyncio.run(log_in())
        asyncio.run(write_until_killed(cards))
        assert set(acknowledged) == set(cards)
        server.start()
        asyncio.run(check(cards))
    finally:
        server.kill()
