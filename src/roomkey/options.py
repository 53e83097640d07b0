"""What a caller gives to a public class: options under their right names, and spans of time.

A wrong name is a `ConfigurationError` that says which one was meant. Python's own `TypeError` would not.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from roomkey.errors import ConfigurationError

__all__ = ["Seconds", "is_number", "named_options", "seconds_of", "unknown_name"]

Seconds = float | dt.timedelta  # a span of time, as a caller may give it

_T = TypeVar("_T")
_NOTHING: Mapping[str, str] = {}


def named_options(
    *,
    meant: Mapping[str, str] = _NOTHING,
    leave_out: Mapping[str, str] = _NOTHING,
    missing: Mapping[str, str] = _NOTHING,
    shows_class: bool = True,
) -> Callable[[type[_T]], type[_T]]:
    """Return a class decorator: to make an instance with a wrong set of arguments raises `ConfigurationError`.

    A type checker still sees the class and its `__init__` as they are. The decorator goes above `@dataclass`.

    Args:
        meant: names that other libraries have for an option, and the option.
        leave_out: options that only other libraries have, and what to do without.
        missing: a required argument, and what it takes.
        shows_class: whether the message names the class. Not where others take its options too.
    """

    def decorate(cls: type[_T]) -> type[_T]:
        made: Callable[..., None] = cls.__init__

        def explain(name: str, given: tuple[Any, ...], options: Mapping[str, Any]) -> str | None:
            signature = inspect.signature(made)  # here, because it takes long, and few programs have a wrong option
            try:
                signature.bind(None, *given, **options)
            except TypeError as error:
                return (
                    _unknown(signature, options, f" of {name}" if shows_class else "", meant, leave_out)
                    or _misplaced(signature, given, name)
                    or _missing(signature, given, options, name, missing)
                    or f"{name}: {error}"
                )
            return None  # a TypeError from within

        @functools.wraps(made)
        def checked(self: Any, *given: Any, **options: Any) -> None:
            try:
                made(self, *given, **options)
            except TypeError:
                explained = explain(type(self).__name__, given, options)
                if explained is None:
                    raise
            else:
                return
            raise ConfigurationError(explained)

        type.__setattr__(cls, "__init__", checked)
        return cls

    return decorate


def is_number(value: object) -> bool:
    """Whether a value is a number. True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds_of(value: Any) -> Any:
    """Return a `timedelta` as a number of seconds, and everything else as it is."""
    if not isinstance(value, dt.timedelta):
        return value
    seconds = value.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds


def unknown_name(
    name: str,
    known: Sequence[str],
    of: str,
    meant: Mapping[str, str],
    leave_out: Mapping[str, str],
    *,
    spelt: Callable[[str], str] = str,
) -> str:
    """Return the text of an error about an option that there is not, with the one that comes near.

    Args:
        name: of no option.
        known: the options.
        of: what has them, or nothing.
        meant: as for `named_options`.
        leave_out: as for `named_options`.
        spelt: how the caller writes an option's name.
    """
    if name in leave_out:
        return f"{spelt(name)}: not an option of Roomkey; {leave_out[name]}"
    import difflib  # only to say sorry with

    close = [meant[name]] if name in meant else difflib.get_close_matches(name, known, n=1)
    names = ", ".join(map(spelt, known))
    listed = f"the options are {names}" if len(known) > 1 else f"the one option is {names}"
    return f"{spelt(name)}: no such option{of}; " + (f"did you mean {spelt(close[0])}?" if close else listed)


def _unknown(
    signature: inspect.Signature,
    options: Mapping[str, Any],
    of: str,
    meant: Mapping[str, str],
    leave_out: Mapping[str, str],
) -> str | None:
    """Say of the first option that there is none of its name, and which one comes near."""
    known = [name for name in signature.parameters if name != "self"]
    for name in options:
        if name in leave_out or name not in known:
            return unknown_name(name, known, of, meant, leave_out)
    return None


def _misplaced(signature: inspect.Signature, given: tuple[Any, ...], name: str) -> str | None:
    """Say which options are given by name, where too many were given by position."""
    places = [each for each in signature.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD][1:]
    if len(given) <= len(places):
        return None
    named = [each.name for each in signature.parameters.values() if each.kind is each.KEYWORD_ONLY]
    if not named:
        return f"{name}: got {len(given)} values by position; it takes {len(places)}"
    return f"{named[0]}: give options by name: {name}({', '.join([*(each.name for each in places), named[0]])}=...)"


def _missing(
    signature: inspect.Signature,
    given: tuple[Any, ...],
    options: Mapping[str, Any],
    name: str,
    takes: Mapping[str, str],
) -> str | None:
    """Say which required argument was not given, and what it takes."""
    required = [each for each in [*signature.parameters.values()][1:] if each.default is each.empty]
    whole = ", ".join(f"{each.name}=..." if each.kind is each.KEYWORD_ONLY else each.name for each in required)
    for each in required[len(given) :]:
        if each.name not in options:
            return f"{each.name}: missing; {takes.get(each.name, f'write {name}({whole})')}"
    return None
