"""A `datetime` or a `time` as plain fields and back: its text, the fold, and its zone.

A named zone is kept as its name and as the offset that it has at that moment. The name is more than the offset: it also
says what the offset is on another day. A machine that does not know the name still knows the moment by its offset.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import sys
from typing import Any

__all__ = ["UnknownZone", "fields_of", "moment_of"]

_log = logging.getLogger("roomkey")
_MICROSECOND = dt.timedelta(microseconds=1)


class UnknownZone(dt.tzinfo):
    """A named zone that this machine does not know: a fixed offset.

    It belongs to one moment, which is stored with the name again. What is computed from that moment is stored with the
    offset alone, because nobody here knows what the zone's offset is by then.

    Args:
        name: of the zone.
        offset: from UTC. None: a time of no day has none.
        text: the moment that it belongs to.
    """

    def __init__(self, name: str, offset: dt.timedelta | None, text: str) -> None:
        self.name: str = name
        self.offset: dt.timedelta | None = offset
        self.text: str = text

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta | None:
        return self.offset

    def dst(self, _: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    def tzname(self, _: dt.datetime | None) -> str:
        return self.name

    def __getinitargs__(self) -> tuple[str, dt.timedelta | None, str]:
        return self.name, self.offset, self.text  # for copies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnknownZone) and self.__getinitargs__() == other.__getinitargs__()

    def __hash__(self) -> int:
        return hash(self.__getinitargs__())

    def __repr__(self) -> str:
        return f"UnknownZone({self.name!r}, {self.offset!r})"


def fields_of(value: dt.datetime | dt.time) -> list[Any]:
    """Return what a moment is stored as: the text, the fold and the offset in microseconds, and then a zone's name."""
    # The offset is not left to the text: `fromisoformat` takes one of a few microseconds for UTC.
    text = value.replace(tzinfo=None).isoformat()
    zone, offset = value.tzinfo, value.utcoffset()
    fields = [text, value.fold, None if offset is None else offset // _MICROSECOND]
    zoneinfo = sys.modules.get("zoneinfo")  # not imported here: it takes longer than the rest of this module
    if zoneinfo is not None and isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        fields.append(str(zone.key))
    elif isinstance(zone, UnknownZone) and zone.text == text:
        fields.append(zone.name)
    return fields


def moment_of(kind: Any, fields: list[Any]) -> Any:
    """Return the moment that was stored as `fields`. `kind`: `datetime` or `time`. Raises what damaged fields raise."""
    text, fold, microseconds, *names = fields
    moment = kind.fromisoformat(text).replace(fold=fold)
    offset = None if microseconds is None else dt.timedelta(microseconds=microseconds)
    if names:
        (name,) = names
        return moment.replace(tzinfo=_named(name, offset, text))
    if offset is None:
        return moment
    return moment.replace(tzinfo=dt.timezone(offset) if offset else dt.UTC)


def _named(name: Any, offset: dt.timedelta | None, text: str) -> dt.tzinfo:
    from zoneinfo import ZoneInfo

    if type(name) is not str or (offset is not None and abs(offset) >= dt.timedelta(days=1)):
        raise ValueError("no zone")
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # not known here, or no name that a file could have
        _say_once()
        return UnknownZone(name, offset, text)


@functools.cache
def _say_once() -> None:
    _log.warning(
        "a session holds a moment in a named time zone that this machine does not know; here it has a fixed offset: "
        "install the package tzdata, or update it (said once)"
    )
