"""Redis: each script has a part for the usual case and one for all cases. Both do the same."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from roomkey.errors import StoreUnavailable
from roomkey.stores.base import Conflict, Record
from roomkey.stores.redis import RedisStore, scripts, writing
from roomkey.stores.redis.records import decode
from roomkey.stores.redis.scripts import Script
from roomkey.testing import Clock
from tests.servers.redis import RedisServer

SLACK = 500_000  # milliseconds of real time that the test may take, and much more than that
SCRIPTS = ("create_script", "update_script", "rotate_script")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


def general_part(script: Script) -> Script:
    """The script without the part for the usual case."""
    source = script.source.decode()
    return Script(source[source.index(scripts._PRELUDE) :])


def usual_part(script: Script) -> Script:
    """The script with nothing but the part for the usual case. In any other case it answers -2."""
    source = script.source.decode()
    return Script(source[: source.index(scripts._PRELUDE)] + "\nreturn -2\n")


class Twins:
    """Two stores to which the same is done, one with whole scripts, one with the general part alone."""

    def __init__(self, server: RedisServer, admin: Any, patch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.whole, self.general = (RedisStore(server.url, prefix=f"{{{name}}}:", clock=self.clock) for name in "wg")
        self._admin = admin
        self._patch = patch
        self._general = {name: general_part(getattr(scripts, name)) for name in SCRIPTS}

    async def do(self, operation: str, *args: Any, **options: Any) -> str:
        """Return the outcome, which is the same for both."""
        outcomes = [await self._one(self.whole, operation, args, options)]
        with self._patch.context() as patched:
            for name, script in self._general.items():
                patched.setattr(writing, name, script)
            outcomes.append(await self._one(self.general, operation, args, options))
        assert outcomes[0] == outcomes[1], (operation, args, options)
        self.compare()
        return outcomes[0]

    async def _one(self, store: RedisStore, operation: str, args: Any, options: Any) -> str:
        try:
            return repr(await getattr(store, operation)(*args, **options))
        except (Conflict, StoreUnavailable) as error:
            return repr(error)

    def compare(self) -> None:
        """Both have the same in the same keys. (The generations differ.)"""
        admin = self._admin
        names = {name.partition(b"}")[2] for name in admin.scan_iter()} - {b":epoch"}
        for name in names:
            whole, general = b"{w}" + name, b"{g}" + name
            if name.startswith(b":u:"):
                assert self._listed(whole) == self._listed(general), name
            else:
                assert admin.get(whole)[16:] == admin.get(general)[16:], name
                assert admin.get(whole)[:16] == admin.get(b"{w}:epoch")
                self._is_kept(whole, decode(admin.get(whole)).expires_at)

    def _listed(self, index: bytes) -> Any:
        """Return what lives of an index. When the rest is removed may differ, and so may what is emptied by that."""
        listed = self._admin.zrangebyscore(index, self.clock(), "inf", withscores=True)
        if listed:
            self._is_kept(index, max(expires for _, expires in listed))
        return listed

    def _is_kept(self, name: bytes, expires_at: float) -> None:
        assert self._admin.pttl(name) > (expires_at - self.clock() + 60) * 1000 - SLACK, name

    async def close(self) -> None:
        await self.whole.close()
        await self.general.close()


@pytest.mark.parametrize("seed", range(8))
def test_both_parts_do_the_same(server, admin, monkeypatch, seed):
    """Whatever is done in whatever order: the part for the usual case changes nothing but time."""
    rng = random.Random(seed)
    users = (None, "ann", "bob", "zoë")
    keys = [f"{number:063x}{rng.choice('0123f')}" for number in range(5)]

    async def main():
        twins, seen = Twins(server, admin, monkeypatch), {}
        for _ in range(200):
            now, key, new = twins.clock(), rng.choice(keys), rng.choice(keys)
            found = await twins.whole.load(key)
            # What was last seen under the key counts also when it has expired since.
            seen[key] = found or seen.get(key) or Record(b"", 1, now, now)
            expected = seen[key].version if rng.random() < 0.9 else 1
            user = seen[key].user if rng.random() < 0.5 else rng.choice(users)
            ends = rng.choice((seen[key].expires_at, *(now + seconds for seconds in (-5, 0, 5_000, 10_000, 100_000))))
            record = Record(rng.randbytes(9), expected + 1, now, ends, user, None, 0.0, b"::1")
            match rng.choice(
                ("create", "update", "update", "rotate", "rotate", "touch", "delete", "of_user", "time", "time")
            ):
                case "create":
                    await twins.do("create", key, record)
                case "update":
                    await twins.do("update", key, record, version=expected)
                case "rotate":
                    lives = rng.choice((-1, 6_000, 6_000, 6_000))
                    tombstone = Record(b"", expected + 1, now, now + lives, rng.choice(users), new, now + 60)
                    await twins.do("rotate", key, new, record, tombstone, version=expected)
                case "touch":
                    await twins.do("touch", key, ends)
                case "delete":
                    await twins.do("delete", key)
                case "of_user" if user is not None:
                    await twins.do("of_user", user)
                case "time":
                    twins.clock.advance(rng.choice((1, 6_000, 6_000, 20_000)))
        await twins.close()

    asyncio.run(main())


def test_usual_cases(server, admin, monkeypatch):
    """What apps do most is done by the first part, with few commands."""
    for name in SCRIPTS:
        monkeypatch.setattr(writing, name, usual_part(getattr(scripts, name)))

    async def main():
        clock = Clock()
        store = RedisStore(server.url, prefix="{usual}:", clock=clock)
        admin.set("{usual}:epoch", secrets.token_bytes(16))
        now = clock()
        one, two, three, four = (f"{number:063x}f" for number in range(4))

        async def commands(operation):
            admin.config_resetstat()
            await operation
            stats = admin.info("commandstats")
            unrelated = {"evalsha", "eval", "info", "config|resetstat", "client|setinfo"}
            counts = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
            return {name: count for name, count in counts.items() if name not in unrelated}

        def record(version, user=None, ends=100.0):
            return Record(b"data", version, now, now + ends, user)

        def tombstone(version, successor, user=None):
            return Record(b"", version, now, now + 60, user, successor, now + 60)

        list_it = {"zadd": 1, "pttl": 1, "pexpire": 1}
        assert await commands(store.create(one, record(1))) == {"get": 1, "set": 1}
        assert await commands(store.update(one, record(2), version=1)) == {"mget": 1, "set": 1}
        logs_in = store.rotate(one, two, record(3, "ann"), tombstone(3, two), version=2)
        assert await commands(logs_in) == {"mget": 1, "set": 2, **list_it}
        assert await commands(store.update(two, record(4, "ann"), version=3)) == {"mget": 1, "set": 1}
        rotates = store.rotate(two, three, record(5, "ann", 9999.0), tombstone(5, three, "ann"), version=4)
        assert await commands(rotates) == {"mget": 1, "set": 2, "zrem": 1, **list_it}
        assert await commands(store.create(four, record(1, "ann"))) == {"get": 1, "set": 1, "zadd": 1, "pttl": 1}
        assert {key for key, _ in await store.of_user("ann")} == {three, four}
        await store.close()

    asyncio.run(main())


def test_who_only_logs_in(server, admin):
    """The list of a user's sessions does not grow for ever, also when nobody reads it."""

    async def main():
        clock = Clock()
        store = RedisStore(server.url, prefix="{many}:", clock=clock)
        for _ in range(300):
            clock.advance(61)
            now = clock()
            await store.create(secrets.token_hex(32), Record(b"", 1, now, now + 30, "ann"))
        assert admin.zcard("{many}:u:ann") < 200
        await store.create("0" * 64, Record(b"", 1, now, now + 30, "ann"))
        assert admin.zcard("{many}:u:ann") <= 3
        await store.close()

    asyncio.run(main())


def test_the_index_lives_as_long_as_its_longest_session(server, admin):
    """A short session that is added later does not take a long one from the list."""

    async def main():
        store = RedisStore(server.url, prefix="{long}:")
        now = store._clock()
        for ends in (1000, 5000, 100):
            await store.create(secrets.token_hex(32), Record(b"", 1, now, now + ends, "ann"))
        assert 4000 < admin.ttl("{long}:u:ann") <= 5060
        await store.close()

    asyncio.run(main())
