"""What a list of sessions shows of one, beside whose it is and its moments: the client of its log-in, and its name.

It stands in a record on its own, and in clear: a list reads it, and has no ID to open sealed data with. It is
MessagePack, a map of what there is, so that one column of a table holds whatever a list is to show.
"""

from __future__ import annotations

import codecs
from typing import Any, NamedTuple

import ormsgpack

__all__ = ["LONGEST_LABEL", "About", "about_in", "about_of", "agent_text", "with_label"]

LONGEST_LABEL = 100  # characters of a user's name for a session
_LONGEST_AGENT = 256  # bytes of a user agent; a browser's name fits, a novel does not
_NAMES = {"ip": "i", "user_agent": "a", "label": "l", "country": "c", "actor": "u"}  # as they are stored


class About(NamedTuple):
    """What a list shows of a session. None: not recorded."""

    ip: str | None = None  # where its user logged in from
    user_agent: str | None = None  # with what
    label: str | None = None  # the user's own name for it
    country: str | None = None  # where that address is
    actor: str | None = None  # who acts for its user in it; such a session is outside the user's limit


def about_of(about: About) -> bytes:
    """Return it as a record keeps it; nothing where there is nothing."""
    kept = {_NAMES[name]: value for name, value in about._asdict().items() if value is not None}
    return ormsgpack.packb(kept) if kept else b""


def about_in(stored: bytes) -> About:
    """Return what a record keeps. What cannot be read is not there: it is for people.

    It decides one thing: a session in which somebody acts for its user is not counted by the user's limit.
    """
    if not isinstance(stored, bytes) or not stored:  # a damaged row may hold anything
        return About()
    try:
        kept: Any = ormsgpack.unpackb(stored)
    except ValueError:
        return About()
    if not isinstance(kept, dict):
        return About()
    found = {name: kept.get(short) for name, short in _NAMES.items()}
    return About(**{name: value if isinstance(value, str) else None for name, value in found.items()})


def with_label(stored: bytes, label: str | None) -> bytes:
    """Return what a record keeps, with another name for the session; None: it has none."""
    return about_of(about_in(stored)._replace(label=label))


def agent_text(raw: bytes) -> str:
    """Return a user agent as people read it: UTF-8 where it is valid, and Latin-1 otherwise."""
    cut = raw[:_LONGEST_AGENT]
    try:
        # What was cut may end within a character, which is left out then.
        return codecs.getincrementaldecoder("utf-8")().decode(cut, final=len(cut) < _LONGEST_AGENT)
    except UnicodeError:
        return cut.decode("latin-1")
