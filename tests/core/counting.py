"""Counts what a piece of code calls, by Python's own profiler: no times, so that no machine is too slow."""

import contextlib
import sys
from collections import Counter

from roomkey.stores.memory import MemoryStore

HASHES = ("blake2b", "sha256", "hmac", "HMAC", "compare_digest", "digest", "hexdigest")


class Calls:
    """What was called: Python's functions and those of C, by their qualified names."""

    def __init__(self):
        self.python, self.c = Counter(), Counter()

    def _note(self, frame, event, argument):
        if event == "call":
            self.python[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            self.c[argument.__qualname__] += 1

    @contextlib.contextmanager
    def counted(self):
        """Count what is called inside."""
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield self
        finally:
            sys.setprofile(before)

    @property
    def transactions(self):
        return self.python["Transaction.__init__"]

    @property
    def encodes(self):
        """How often a session, or a value, was made into bytes."""
        return self.c["packb"]

    @property
    def decodes(self):
        return self.c["unpackb"]

    @property
    def comparisons(self):
        """How often a session was compared with what was loaded, or a value with another."""
        return self.python["Session._is_same"] + self.python["fingerprint"]

    @property
    def hashes(self):
        """How many calls made a hash, or compared one."""
        return sum(number for name, number in self.c.items() if any(part in name for part in HASHES))


class CountedStore(MemoryStore):
    """A store in memory that counts what it is asked. It does not say that it never waits."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = Counter()

    async def load(self, key):
        self.asked["load"] += 1
        return await super().load(key)

    def load_now(self, key):
        self.asked["load"] += 1
        return super().load_now(key)

    async def create(self, key, record):
        self.asked["create"] += 1
        await super().create(key, record)

    async def update(self, key, record, *, version):
        self.asked["update"] += 1
        await super().update(key, record, version=version)

    async def rotate(self, key, new_key, record, tombstone, *, version):
        self.asked["rotate"] += 1
        await super().rotate(key, new_key, record, tombstone, version=version)

    async def touch(self, key, expires_at):
        self.asked["touch"] += 1
        return await super().touch(key, expires_at)

    async def delete(self, key):
        self.asked["delete"] += 1
        await super().delete(key)


class CountedAtOnce(CountedStore):
    """The same, and it says so, as the store in memory does."""

    never_waits = True
