"""Where a session says whose it is: under a key, below several keys, or by a function.

`"user_id"` is a key. `"user.sub"` is the key `"sub"` of the dict under the key `"user"`. A session that has a key of
just that name, dot and all, has the value there.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from roomkey.errors import ConfigurationError, SessionDataError
from roomkey.wire import codec
from roomkey.wire.user_ids import NO_ID, checked_text, in_session, text_of

__all__ = [
    "LOG_INS",
    "Rights",
    "UserKey",
    "Whose",
    "checked_rotate_on",
    "checked_user_key",
    "option_for",
    "says_something",
]

UserKey = str | Sequence[str] | Callable[[dict[str, Any]], object]
"""What the option `user_key` takes: a key or a path, several of them, or a function of the session."""

LOG_INS = frozenset(
    {
        "_auth_user_id",
        "_user_id",
        "access_token",
        "account_id",
        "auth",
        "id_token",
        "is_authenticated",
        "logged_in",
        "token",
        "uid",
        "user",
        "user_id",
        "userid",
        "username",
    }
)
"""Keys that log-ins of others set: Django, imia, Flask-Login, Authlib, sqladmin, starlette-admin and apps."""

_TOKENS = frozenset({"access_token", "id_token", "token"})  # of LOG_INS: their texts are no user's ID
_IDS = ("sub", "id", "user_id", "uid", "pk", "username", "email")  # keys of an ID, in a dict that is a user
_MISSING: Any = object()  # in the place of a value: nothing is there
_TAKES = "it takes a session key such as 'user_id', a path such as 'user.sub', several, a function, or None"


class Place(NamedTuple):
    """Where one value is in a session."""

    name: str
    root: str  # the session's key
    path: tuple[str, ...]  # the keys below that, each of a dict; empty: the value is under the session's key

    def value_in(self, data: dict[str, Any]) -> Any:
        """Return the value. _MISSING: nothing is there."""
        if self.name in data:
            return data[self.name]
        if not self.path or self.root not in data:
            return _MISSING
        value = data[self.root]
        for key in self.path:
            if not isinstance(value, dict) or key not in value:
                return _MISSING
            value = value[key]
        return value

    def key_in(self, data: dict[str, Any]) -> str:
        """Return which key of the session has the value."""
        return self.name if self.name in data else self.root

    def text_in(self, data: dict[str, Any]) -> str | None:
        """Return the value as the text of a user's ID. None: nobody."""
        value = self.value_in(data)
        return None if value is _MISSING else text_of(value)

    def shown_in(self, data: dict[str, Any]) -> str:
        """Return how an error names the place."""
        path = () if self.name in data else self.path
        return in_session(self.key_in(data)) + "".join(f"[{key!r}]" for key in path)


def place_of(name: str) -> Place:
    """Return the place that a key or a path names."""
    root, *path = name.split(".")
    if not path or not all((root, *path)):
        return Place(name, name, ())
    return Place(name, root, tuple(path))


def says_something(value: object) -> bool:
    """Whether a value under one of LOG_INS may be a log-in. Objects of other classes are not asked for their truth."""
    return bool(value) if isinstance(value, str | bytes | int | dict | list | tuple) else value is not None


def option_for(key: str, value: object) -> str:
    """Return what has a log-in seen, as a piece of a sentence. It shows nothing of the value but a well-known key.

    Args:
        key: one of LOG_INS.
        value: what the session has there.
    """
    if isinstance(value, dict):
        name = next((each for each in _IDS if text_of(value.get(each)) not in (None, NO_ID)), None)
        if name is not None:
            return f"set user_key='{key}.{name}'"
    elif key not in _TOKENS and text_of(value) not in (None, NO_ID):
        return f"set user_key={key!r}"
    return "set user_key to the place of the user's ID, and put an ID into the session where there is none"


class Whose:
    """Finds whose a session is. It is made once for a configuration, and never changed.

    Args:
        user_key: as `checked_user_key` returns it.
    """

    def __init__(self, user_key: UserKey) -> None:
        names = () if callable(user_key) else (user_key,) if isinstance(user_key, str) else tuple(user_key)
        self.places: tuple[Place, ...] = tuple(map(place_of, names))
        self._function = user_key if callable(user_key) else None
        # The key, where it is one key and nothing else: then nothing has to be looked for.
        self.plain: str | None = names[0] if len(names) == 1 and not self.places[0].path else None
        self.roots: frozenset[str] = frozenset(key for place in self.places for key in (place.name, place.root))

    @property
    def shown(self) -> str:
        """The option's value, for people."""
        if self._function is not None:
            return getattr(self._function, "__qualname__", type(self._function).__qualname__)
        names = [place.name for place in self.places]
        return repr(names[0] if len(names) == 1 else tuple(names))

    def value_in(self, data: dict[str, Any]) -> Any:
        """Return the user's ID, as it stands in a session. None: nobody is logged in.

        Raises:
            SessionDataError: the function of `user_key` raised something. Its words may show the session's data, and
                are left out.
        """
        if self._function is not None:
            return self._asked(data)
        place = self._place_in(data)
        value = _MISSING if place is None else place.value_in(data)
        return None if value is _MISSING else value

    def text_in(self, data: dict[str, Any]) -> str | None:
        """Return whose a session is, as the text that stores keep. Raises SessionDataError as `value_in` does."""
        return text_of(self.value_in(data))

    def checked_in(self, data: dict[str, Any]) -> str | None:
        """As `text_in`. It also raises SessionDataError where the value is no ID."""
        if self._function is not None:
            return checked_text(f"what the function {self.shown} of user_key returned", self._asked(data))
        place = self._place_in(data)
        return None if place is None else checked_text(place.shown_in(data), place.value_in(data))

    def content_for(self, user: object) -> dict[str, Any]:
        """Return a session of a user with nothing else in it. Raises ConfigurationError: a function finds users."""
        if not self.places:
            raise ConfigurationError(
                f"user_key: the function {self.shown} finds users, so that no session can be made for one; give a key "
                "or a path"
            )
        place = self.places[0]
        content: Any = user
        for key in reversed(place.path):
            content = {key: content}
        return {place.root: content}

    def keys_in(self, data: dict[str, Any]) -> set[str]:
        """Return which keys of the session say whose it is. Of a function: those that it looks up, by their names."""
        if self._function is not None:
            noted = _Noted(data)
            self._asked(noted)
            return noted.keys_seen & data.keys()
        place = self._place_in(data)
        return set() if place is None else {place.key_in(data)}

    def _place_in(self, data: dict[str, Any]) -> Place | None:
        """Return the first place where somebody is."""
        return next((place for place in self.places if place.text_in(data) is not None), None)

    def _asked(self, data: dict[str, Any]) -> Any:
        assert self._function is not None
        try:
            return self._function(data)
        except Exception as error:
            text = f"user_key: the function {self.shown} raised {type(error).__name__}{_line_of(error)}"
        raise SessionDataError(f"{text}; it returns None where nobody is logged in")


class _Noted(dict[str, Any]):
    """A dict that notes which keys are looked up."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.keys_seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_seen.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            self.keys_seen.add(key)
        return super().__contains__(key)


class Rights:
    """What gives the holder of a session ID more than before, beside whose session it is: then the ID changes.

    Args:
        whose: finds the user. Where it looks under several keys, each of them is a log-in of its own.
        rotate_on: keys or paths, as the option has them.
    """

    def __init__(self, whose: Whose | None, rotate_on: Iterable[str] = ()) -> None:
        places = () if whose is None else whose.places
        self._users = places if len(places) > 1 else ()
        self._others = tuple(map(place_of, rotate_on))

    @property
    def are_watched(self) -> bool:
        """Whether there is anything to compare."""
        return self._users != () or self._others != ()

    def logs_in(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        """Whether a user is under one of several keys who was not there before."""
        return any(place.text_in(after) not in (None, place.text_in(before)) for place in self._users)

    def differ(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        """Whether anything of it changes."""
        if any(place.text_in(before) != place.text_in(after) for place in self._users):
            return True
        return any(not _is_same(place.value_in(before), place.value_in(after)) for place in self._others)


def checked_user_key(given: Any) -> UserKey | None:
    """Return the option `user_key` as it is kept: several keys as a tuple.

    Raises:
        ConfigurationError: it is none of what the option takes, or its function does not work.
    """
    if given is None:
        return None
    if isinstance(given, str) or not (callable(given) or isinstance(given, Iterable)):
        if type(given) is not str or not given:
            raise ConfigurationError(f"user_key: got {given!r}; {_TAKES}")
        return given
    if callable(given):
        _check_function(given)
        return given  # type: ignore[no-any-return]
    names = tuple(given) if isinstance(given, list | tuple) else ()
    if not names or not all(type(name) is str and name for name in names):
        raise ConfigurationError(f"user_key: got {given!r}; {_TAKES}")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"user_key: got {given!r}; a key is there twice")
    return names


def checked_rotate_on(given: Any) -> tuple[str, ...]:
    """Return the option `rotate_on` as it is kept. Raises ConfigurationError."""
    if not isinstance(given, list | tuple) or not all(type(name) is str and name for name in given):
        raise ConfigurationError(
            f"rotate_on: got {given!r}; it takes a list of session keys, or of paths, such as ['role', 'user.role']"
        )
    return tuple(given)


def _is_same(one: Any, other: Any) -> bool:
    if one is _MISSING or other is _MISSING:
        return one is other
    return codec.is_same(one, other)


def _check_function(function: Callable[[dict[str, Any]], object]) -> None:
    """Raise ConfigurationError where a function finds somebody in an empty session, or cannot look for one."""
    shown = Whose(function).shown
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"user_key: {shown} is asynchronous, and nothing awaits it; it takes a plain function")
    try:
        found = function({})
    except Exception as error:
        raise ConfigurationError(
            f"user_key: the function {shown} raised {type(error).__name__} for an empty session; it returns None where "
            "nobody is logged in"
        ) from error
    if text_of(found) is not None:
        raise ConfigurationError(
            f"user_key: the function {shown} named a user for an empty session; it returns None where nobody is "
            "logged in"
        )


def _line_of(error: Exception) -> str:
    """Return where an error was raised, for a text that must not show the error's own words."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
