"""Activity: what happened to sessions, counted by the hour."""

import threading
import time
from collections import Counter

import pytest

from roomkey import ConfigurationError
from roomkey.events import Created, Ended, LoadedWithOldKey, Lost, Merged, OutageBegan, OutageEnded, Refused, Rotated
from roomkey.pages import Activity
from roomkey.testing import Clock
from tests.pages.parts import START

EVENTS = [
    (Created("a", "7"), {"log_in": 1}),
    (Created("a", None), {}),
    (Created("a", "7", actor="1"), {}),
    (Ended("a", "7", "cleared", actor="1"), {}),
    (Rotated("a", "b", "7", None), {"log_in": 1}),
    (Rotated("a", "b", "7", "8"), {"log_in": 1}),
    (Rotated("a", "b", "7", "7"), {}),
    (Rotated("a", "b", None, "7"), {}),
    (Ended("a", "7", "cleared"), {"log_out": 1}),
    (Ended("a", None, "cleared"), {}),
    (Ended("a", "7", "revoked"), {"revoked": 1}),
    (Ended("a", "7", "limit"), {"revoked": 1}),
    (Refused("unknown"), {"refused": 1}),
    (Lost("a", "ended"), {"lost": 1}),
    (Merged("a", 1), {}),
    (LoadedWithOldKey("a"), {}),
]


@pytest.mark.parametrize(("event", "totals"), EVENTS)
def test_what_counts_as_what(event, totals):
    """A new user in a session is a log-in, and a session that its user ended is a log-out."""
    activity = Activity()
    activity(event)
    assert activity.totals == totals


def test_hours_come_and_go():
    """Each hour has its own counts, also where nothing happened; what is older than the last one is forgotten."""
    clock = Clock(START)
    activity = Activity(hours=3, clock=clock)
    activity(Created("a", "7"))
    clock.advance(2 * 3600)
    activity(Ended("a", "7", "cleared"))
    assert [(hour.log_ins, hour.log_outs) for hour in activity.hours] == [(1, 0), (0, 0), (0, 1)]
    assert [hour.began.hour for hour in activity.hours] == [14, 15, 16]
    clock.advance(3600)
    assert activity.totals == {"log_out": 1}
    clock.advance(10 * 3600)
    assert activity.totals == {} and len(activity.hours) == 3
    clock.advance(-20 * 3600)
    activity(Created("a", "7"))  # and nothing raises


def test_outages():
    """One that is over has an end, and one that goes on has none; the latest comes first, and 20 are kept."""
    clock = Clock(START)
    activity = Activity(clock=clock)
    activity(OutageBegan("RedisStore", "refused"))
    clock.advance(60)
    activity(OutageEnded("RedisStore"))
    activity(OutageBegan("SQLiteStore", "full"))
    last, first = activity.outages
    assert (last.store, last.ended) == ("SQLiteStore", None)
    assert (first.ended - first.began).total_seconds() == 60
    for _ in range(30):
        activity(OutageBegan("SQLiteStore", "full"))
    assert len(activity.outages) == 20


def test_no_event_of_another_thread_is_lost(monkeypatch):
    """Blocking frameworks report from several threads at once, also the first events of an hour."""

    class SlowCounter(Counter):
        def __init__(self):
            time.sleep(0.001)  # other threads get in between
            super().__init__()

    monkeypatch.setattr("roomkey.pages.activity.Counter", SlowCounter)
    for _ in range(10):
        activity = Activity()
        begun = threading.Barrier(8)

        def report(activity=activity, begun=begun):
            begun.wait()
            activity(Created("a", "7"))

        threads = [threading.Thread(target=report) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(hour.log_ins for hour in activity.hours) == 8


@pytest.mark.parametrize("hours", [0, 169, True, 1.5, "24"])
def test_wrong_hours(hours):
    """It takes a whole number from 1 to 168."""
    with pytest.raises(ConfigurationError, match=r"^hours: got"):
        Activity(hours=hours)
