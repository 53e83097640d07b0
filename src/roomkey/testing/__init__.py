"""For your tests: a clock that you move, a client that logs in, and the suite that every store has to pass.

Needs no test framework.
"""

from roomkey.testing.client import client_session
from roomkey.testing.clock import Clock
from roomkey.testing.contract import StoreContract

__all__ = ["Clock", "StoreContract", "client_session"]
