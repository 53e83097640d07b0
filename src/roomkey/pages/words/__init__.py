"""The texts of the pages, by language, and which language a browser asks for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from string import Formatter
from typing import Any

from roomkey.errors import ConfigurationError
from roomkey.options import unknown_name
from roomkey.pages.words import de, en

__all__ = ["Catalogue", "Words"]

_ENGLISH = "en"
_OWN: Mapping[str, Mapping[str, str]] = {_ENGLISH: en.WORDS, "de": de.WORDS}
_MOST_LANGUAGES = 20  # of a header that are looked at


class Catalogue:
    """The texts of one language.

    Args:
        language: its tag, such as `"de"`.
        texts: by key; English ones stand in for those that are missing.
    """

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language = language
        self._texts = texts

    def say(self, key: str, **values: object) -> str:
        """Return a text with its values filled in."""
        return self._texts[key].format(**values) if values else self._texts[key]

    def moment(self, value: dt.datetime) -> str:
        """Return a moment as people read it, in UTC."""
        return format(value.astimezone(dt.UTC), self._texts["moment"])

    def hour(self, value: dt.datetime) -> str:
        """Return the hour of a moment, in UTC."""
        return format(value.astimezone(dt.UTC), self._texts["hour"])

    def ago(self, seconds: float) -> str:
        """Return how long ago something was. The unit is such that there are at least two of it."""
        for unit, size in (("days_ago", 86400), ("hours_ago", 3600), ("minutes_ago", 60)):
            if seconds >= 2 * size:
                return self.say(unit, count=int(seconds // size))
        return self._texts["just_now"]

    def span(self, seconds: float) -> str:
        """Return a span of time."""
        for unit, size in (("hours", 3600), ("minutes", 60)):
            if seconds >= 2 * size:
                return self.say(unit, count=round(seconds / size))
        return self.say("seconds", count=round(seconds))


class Words:
    """The catalogues of one page.

    Args:
        language: the one to use, whatever the browser asks for; None: the one that it asks for, or else English.
        more: by language, texts that add a language or replace Roomkey's own texts.

    Raises:
        ConfigurationError: there is no catalogue for `language`, or a text has a key or a `{field}` that there is not.
    """

    def __init__(self, language: str | None, more: Mapping[str, Mapping[str, str]]) -> None:
        for tag, texts in more.items():
            _check(tag, texts)
        added = {tag.lower(): texts for tag, texts in more.items()}
        english = {**en.WORDS, **added.get(_ENGLISH, {})}
        self._catalogues = {
            tag: Catalogue(tag, {**english, **_OWN.get(tag, {}), **added.get(tag, {})}) for tag in {**_OWN, **added}
        }
        self._only = None if language is None else self._named(language)
        if language is not None and self._only is None:
            raise ConfigurationError(
                f"language: got {language!r}; it takes None or one of {', '.join(sorted(self._catalogues))}. Add a "
                "language with words={...}"
            )

    def for_browser(self, accepted: str) -> Catalogue:
        """Return the catalogue for a request. `accepted`: the value of its header `Accept-Language`."""
        if self._only is not None:
            return self._only
        for tag in _by_preference(accepted):
            found = self._named(tag)
            if found is not None:
                return found
        return self._catalogues[_ENGLISH]

    def _named(self, tag: object) -> Catalogue | None:
        """Return the catalogue for a tag, or for a shorter one that it begins with (RFC 4647 section 3.4)."""
        parts = tag.lower().split("-") if isinstance(tag, str) else []
        for length in range(len(parts), 0, -1):
            found = self._catalogues.get("-".join(parts[:length]))
            if found is not None:
                return found
        return None


def _by_preference(accepted: str) -> list[str]:
    """Return the tags in an `Accept-Language`, the wanted ones first (RFC 9110 section 12.5.4)."""
    wanted = []
    for each in accepted.split(",")[:_MOST_LANGUAGES]:
        tag, _, weight = each.strip().partition(";")
        weight = weight.strip().removeprefix("q=")
        try:
            quality = float(weight) if weight else 1.0
        except ValueError:
            continue
        if quality > 0:  # not of what is no number either
            wanted.append((-quality, tag.strip()))
    return [tag for _, tag in sorted(wanted, key=lambda each: each[0])]


def _check(tag: object, texts: Any) -> None:
    if not isinstance(tag, str) or not isinstance(texts, Mapping):
        raise ConfigurationError('words: it takes texts by language and key, such as {"fr": {"log_in": "Connexion"}}')
    for key, text in texts.items():
        if key not in en.WORDS:
            raise ConfigurationError(unknown_name(key, list(en.WORDS), f" in words[{tag!r}]", {}, {}))
        try:
            fields, known = _fields(text), _fields(en.WORDS[key])
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"words[{tag!r}][{key!r}]: got {text!r}; it takes a text ({error})") from error
        if not fields <= known:
            names = ", ".join(f"{{{name}}}" for name in sorted(known)) or "none"
            raise ConfigurationError(f"words[{tag!r}][{key!r}]: got {text!r}; the fields that there are: {names}")


def _fields(text: str) -> set[str]:
    """Return the names in braces in a text. Raises ValueError for a lone brace."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
