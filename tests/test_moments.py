"""Moments in named zones that a machine does not know: a slim image without a time zone database, or an older one."""

import copy
import datetime as dt
import json
import logging
import os
import pickle
import subprocess
import sys
import zoneinfo

import pytest

from roomkey.wire import moments
from roomkey.wire.codec import decode, encode
from roomkey.wire.moments import UnknownZone

WINTER = dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))
SUMMER = dt.datetime(2026, 7, 2, 3, 4, 5, tzinfo=zoneinfo.ZoneInfo("America/St_Johns"))
AGAIN = dt.datetime(2025, 10, 26, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))
ALARM = dt.time(7, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich"))
DATA = {"winter": WINTER, "summer": [SUMMER], "again": AGAIN, "alarm": ALARM, "user_id": 7}


STORED = encode(DATA)


class KnowsNone(zoneinfo.ZoneInfo):
    """What a machine without a time zone database has."""

    def __new__(cls, key):
        raise zoneinfo.ZoneInfoNotFoundError(key)


@pytest.fixture
def ignorant(monkeypatch):
    """Have this machine know no zone by its name."""
    moments._say_once.cache_clear()
    monkeypatch.setattr(zoneinfo, "ZoneInfo", KnowsNone)


def test_the_moment_has_a_fixed_offset_there(ignorant, caplog):
    """The session is read. The moments are the same, by their offset, and the log says once what to install."""
    with caplog.at_level(logging.WARNING, "roomkey"):
        for _ in range(2):
            found = decode(STORED)
    assert found["winter"] == WINTER and found["winter"].utcoffset() == dt.timedelta(hours=1)
    assert found["summer"] == [SUMMER] and found["summer"][0].utcoffset() == dt.timedelta(hours=-2.5)
    assert found["again"].utcoffset() == dt.timedelta(hours=1) and found["again"].fold == 1
    assert found["alarm"].replace(tzinfo=None) == dt.time(7, 30) and found["alarm"].utcoffset() is None
    assert found["winter"].tzname() == "Europe/Zurich" and found["winter"].dst() == dt.timedelta(0)
    assert found["winter"].astimezone(dt.UTC) == WINTER
    (record,) = caplog.records
    assert "tzdata" in record.message and "Zurich" not in record.message


def test_a_name_that_no_machine_has():
    """A zone from a file may have any name: the session that holds such a moment is read all the same."""
    with open(f"{zoneinfo.TZPATH[0]}/Europe/Zurich", "rb") as file:
        own = zoneinfo.ZoneInfo.from_file(file, key="Our/Office")
    assert decode(encode({"v": WINTER.replace(tzinfo=own)}))["v"] == WINTER


def test_it_is_stored_as_it_was(ignorant):
    """What was read is encoded to the same bytes: to read the session there is no change of it."""
    assert encode(decode(STORED)) == STORED
    for again in (copy.deepcopy(decode(STORED)), copy.copy(decode(STORED)), pickle.loads(pickle.dumps(decode(STORED)))):
        assert encode(again) == STORED and again == decode(STORED)


def test_where_the_zone_is_known_it_is_that_zone_again(ignorant, monkeypatch):
    """A machine that knows the zone finds the named one, also in what the other has saved."""
    stored = encode(decode(STORED) | {"user_id": 8})
    monkeypatch.undo()
    found = decode(stored)
    assert found == DATA | {"user_id": 8}
    for moment in (found["winter"], found["summer"][0], found["again"], found["alarm"]):
        assert type(moment.tzinfo) is zoneinfo.ZoneInfo


def test_what_is_computed_there_is_stored_with_the_offset_alone(ignorant):
    """Half a year later the zone may have another offset, which nobody knows there: the moment stays what it is."""
    later = decode(STORED)["winter"] + dt.timedelta(days=182)
    assert type(later.tzinfo) is UnknownZone
    found = decode(encode({"v": later}))["v"]
    assert found == later and found.tzinfo == dt.timezone(dt.timedelta(hours=1))


_VISIT = """
import asyncio, datetime, json, sys, zoneinfo
from roomkey import SessionManager

async def visit(path, card, act):
    async with SessionManager(secret_key="k" * 32, store=f"sqlite:///{path}", seal=sys.argv[4] == "sealed") as manager:
        session = await manager.load(b"session=" + card.encode())
        before = session.copy()
        if act == "begin":
            zone = zoneinfo.ZoneInfo("Europe/Zurich")
            session.update(user_id=7, at=datetime.datetime(2026, 1, 2, tzinfo=zone))
        elif act == "write":
            session["n"] = 1
        headers = await manager.commit(session, status=200, headers=[])
        cookies = [value.split(";")[0].partition("=")[2] for name, value in headers if name == "set-cookie"]
    at = before.get("at")
    print(json.dumps([cookies, before.get("user_id"), before.get("n"), at and [at.isoformat(), str(at.tzinfo)]]))

asyncio.run(visit(*sys.argv[1:4]))
"""


@pytest.mark.parametrize("seal", ["plain", "sealed"])
def test_a_process_without_zones_keeps_the_session(tmp_path, seal):
    """One of two servers over one store knows no zone: the user stays logged in on both, and the value stays whole."""

    def visit(act, card="", **environment):
        blocked = "import sys; sys.modules['tzdata'] = None\n" if environment else ""
        code = f"import sys; sys.path[:0] = {sys.path!r}\n" + blocked + _VISIT
        command = [sys.executable, "-c", code, str(tmp_path / "s.db"), card, act, seal]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
        return json.loads(answer.stdout), answer.stderr

    ((card,), *_), _ = visit("begin")
    at = "2026-01-02T00:00:00+01:00"
    for act, written in (("read", None), ("write", None), ("read", 1)):
        found, said = visit(act, card, PYTHONTZPATH="")
        assert found == [[], 7, written, [at, "UnknownZone('Europe/Zurich', datetime.timedelta(seconds=3600))"]]
        assert said.count("tzdata") == 1
    assert visit("read", card)[0] == [[], 7, 1, [at, "Europe/Zurich"]]
