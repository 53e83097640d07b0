"""Sessions that are kept near, and os.fork: the child has neither the parent's memory nor its connection."""

import asyncio
import os
import traceback

import pytest

from roomkey import SessionManager
from tests.loop_clock import until
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_a_child(work):
    """Run something in the child of a fork; return whether it came to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_child_begins_anew():
    """It asks the server, gets a connection of its own, and the parent's goes on to hear of changes."""
    with RedisServer() as server:
        manager = SessionManager(secret_key="k" * 32, store=server.url, near_cache=10)
        other = SessionManager(secret_key="k" * 32, store=server.url)

        async def near_again(cookie):
            async def is_near():
                before = manager.near.hits
                await manager.load(cookie)
                return manager.near.hits > before

            await until(is_near)

        async def parent():
            session = await manager.load()
            session.update(user_id=7, n=0)
            cookie = dict(await manager.commit(session))["set-cookie"].split(";")[0]
            await near_again(cookie)

            async def its_own():
                hits = manager.near.hits
                found = await manager.load(cookie)
                assert found["user_id"] == 7 and manager.near.hits == hits
                await near_again(cookie)

            def child():
                assert len(manager.near) == 0
                asyncio.events._set_running_loop(None)
                asyncio.run(its_own())

            assert in_a_child(child)
            await near_again(cookie)
            session = await other.load(cookie)
            session["n"] = 1
            await other.commit(session)

            async def is_seen():
                return (await manager.load(cookie))["n"] == 1

            await until(is_seen)
            for each in (manager, other):
                await each.registry.store.close()

        asyncio.run(parent())
