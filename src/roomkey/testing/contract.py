"""The conformance suite: one test for each sentence of the contract in `roomkey.stores.base`.

A store of your own runs it in three lines, with pytest or any other runner that calls methods named `test_*`:

    class TestMyStore(StoreContract):
        async def make(self, clock):
            return MyStore(clock=clock)
"""

from __future__ import annotations

from roomkey.stores.base import Store
from roomkey.testing.clock import Clock
from roomkey.testing.optional import OptionalTests
from roomkey.testing.races import RaceTests
from roomkey.testing.records import RecordTests

__all__ = ["StoreContract"]


class StoreContract(RecordTests, RaceTests, OptionalTests):
    """Subclass it, name the class `Test...`, and say how your store is made.

    Tests of the optional protocols (`Purge`, `UserIndex`, `Scan`, `Wipe`, `Watch`, `Lifespan`) are skipped for a store
    without them.
    """

    clock_moves = True
    """Whether the store follows the clock given to `make`. False for one whose engine has its own: the suite then
    gives records 0.3 seconds to live and waits, so the server's clock and this machine's must agree. A test that took
    longer, and failed, is run again with 3 seconds, and then with 30."""

    async def make(self, clock: Clock) -> Store:
        """Return a new, empty store.

        Args:
            clock: the time, for a store that takes a `clock`.
        """
        raise NotImplementedError("StoreContract: say in `make` how your store is made")
