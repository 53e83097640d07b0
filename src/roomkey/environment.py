"""Options from environment variables: `ROOMKEY_MAX_AGE` is the option `max_age`, and so on.

A variable's text is read as the type of its option. Whether the value is a right one, the configuration says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.options import unknown_name

__all__ = ["in_terms_of_variables", "options_from", "variable_of"]

_PREFIX = "ROOMKEY_"
_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_WRONG = object()  # in the place of a value that a text does not stand for


def variable_of(option: str) -> str:
    """Return the name of an option's environment variable."""
    return _PREFIX + option.upper()


def options_from(
    environ: Mapping[str, str],
    kinds: Mapping[str, str],
    *,
    but: Iterable[str],
    meant: Mapping[str, str],
    leave_out: Mapping[str, str],
) -> dict[str, Any]:
    """Return the options that the environment gives.

    Args:
        environ: the environment.
        kinds: the options and their types, as they are annotated.
        but: options that are given otherwise. Their variables are not read.
        meant: names that other libraries have for an option, and the option.
        leave_out: options that only other libraries have, and what to do without.

    Raises:
        ConfigurationError: a variable has the name of no option, or a text that its option does not take.
    """
    names = {variable_of(option): option for option in kinds}
    options, given = {}, set(but)
    for variable in sorted(each for each in environ if each.startswith(_PREFIX)):
        option = names.get(variable)
        if option is None:
            name = variable.removeprefix(_PREFIX).lower()
            raise ConfigurationError(unknown_name(name, [*kinds], "", meant, leave_out, spelt=variable_of))
        if option not in given:
            options[option] = _value(variable, environ[variable], kinds[option])
    return options


def in_terms_of_variables(text: str, options: Iterable[str]) -> str | None:
    """Return the text of an error about an option that the environment gave, with the variable's name.

    Args:
        text: begins with the option's name.
        options: those that the environment gave.

    Returns:
        The text. None: it is about something else.
    """
    name = re.match(r"\w*", text)
    option = name[0] if name else ""
    return variable_of(option) + text.removeprefix(option) if option in options else None


def _value(variable: str, text: str, kind: str) -> Any:
    parts = {part.strip() for part in kind.split("|")}
    if not text:
        raise ConfigurationError(f"{variable}: it is empty; unset it, and the option has its default")
    if kind == "Any":
        return _keys(variable, text)
    if "None" in parts and text.lower() == "none":
        return None
    words = [word for part in parts for word in re.findall(r"Literal\[['\"](\w+)['\"]\]", part)]
    if text.lower() in words:
        return text.lower()
    for part in parts:
        if part in _READERS:
            takes, read = _READERS[part]
            value = read(text)
            if value is _WRONG:
                more = "".join(f", or {word}" for word in [*words, *(["none"] if "None" in parts else [])])
                raise ConfigurationError(f"{variable}: got {text[:100]!r}; it takes {takes}{more}")
            return value
    if kind.startswith("Literal[") or "str" in parts:
        return text
    raise ConfigurationError(f"{variable}: no text stands for what this option takes; give it as an argument")


def _keys(variable: str, text: str) -> str | list[str]:
    """Return one secret key, or several. No message shows them."""
    if not text.startswith("["):
        return text
    keys = _texts(text)
    if not isinstance(keys, list):
        raise ConfigurationError(f'{variable}: it begins with [ and is no JSON list of texts, such as ["new", "old"]')
    return keys


def _texts(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return _WRONG
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else _WRONG


def _boolean(text: str) -> Any:
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else _WRONG


def _whole(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return _WRONG


def _number(text: str) -> Any:
    number = _whole(text)
    if number is not _WRONG:
        return number
    try:
        return float(text)
    except ValueError:
        return _WRONG


def _user_key(text: str) -> Any:
    """Return one key, or several, which are a JSON list or have commas between them."""
    names = _texts(text) if text.startswith("[") else [name.strip() for name in text.split(",")]
    if names is _WRONG or not names or not all(names):
        return _WRONG
    return names if len(names) > 1 else names[0]


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "bool": ("true or false", _boolean),
    "int": ("a whole number", _whole),
    "float": ("a number of seconds", _number),
    "UserKey": ("a session key, or several with commas between them", _user_key),
    "Sequence[str]": ('a JSON list of texts, such as ["/one", "/two"]', _texts),
}
