"""For your tests: a clock that you move, and the suite that every store has to pass. Needs no test framework."""

from roomkey.testing.clock import Clock
from roomkey.testing.contract import StoreContract

__all__ = ["Clock", "StoreContract"]
