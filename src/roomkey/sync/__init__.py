"""The session manager for frameworks that are not asynchronous: the same calls, and each returns when it is done.

A store that never waits is served in place (`in_place`). Any other is served by one event loop in a thread of its own
(`loop_thread`). `threads` and `greenlets` have the two ways to wait for it: as a thread does, and as a greenlet of
gevent does.
"""

from roomkey.sync.manager import SyncManager, SyncSessions

__all__ = ["SyncManager", "SyncSessions"]
