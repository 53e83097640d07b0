"""The stores that the attacks are run against."""

import tempfile

import pytest

from roomkey.stores.memory import MemoryStore
from roomkey.stores.migrating import Migrating
from roomkey.stores.sqlite import SQLiteStore

STORES = ["memory", "sqlite", "migrating"]


@pytest.fixture(params=STORES)
def any_store(request):
    """Return a coroutine function that makes an empty store of one kind."""
    with tempfile.TemporaryDirectory() as directory:

        async def make(clock):
            if request.param == "memory":
                return MemoryStore(clock=clock)
            if request.param == "sqlite":
                return SQLiteStore(f"{directory}/s.db", clock=clock)
            return Migrating(MemoryStore(clock=clock), MemoryStore(clock=clock), clock=clock)

        yield make
