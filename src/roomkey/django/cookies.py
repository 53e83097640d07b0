"""What a commit puts into a response of Django's, which keeps its cookies apart from its headers."""

from __future__ import annotations

from http.cookies import Morsel, SimpleCookie
from typing import Any

from django.http.response import HttpResponseBase, ResponseHeaders

from roomkey.web.unavailable import stands_on_all

__all__ = ["keep_others", "of_this_request", "pairs_of", "put"]

Pairs = list[tuple[str, str]]
_COOKIE = "set-cookie"


def pairs_of(response: HttpResponseBase) -> Pairs:
    """Return all headers of a response, its cookies too."""
    cookies = ((_COOKIE, morsel.OutputString()) for morsel in response.cookies.values())
    return [*response.items(), *cookies]


def of_this_request(response: HttpResponseBase) -> HttpResponseBase:
    """Return a response with the same content, and headers and cookies of its own.

    A project may return one object for everybody. It would give the cookie to everybody, too.
    """
    made: HttpResponseBase = object.__new__(type(response))  # not copy.copy: Django's class leaves out what it returns
    made.__dict__.update(response.__dict__)
    made.headers, made.cookies = ResponseHeaders(response.items()), SimpleCookie()
    dict.update(made.cookies, response.cookies)
    return made


def put(response: HttpResponseBase, given: Pairs, made: Pairs, *, fleeting: str) -> None:
    """Put what a commit returned into a response.

    Args:
        response: gets it.
        given: its headers, as `pairs_of` returned them.
        made: what the commit made of them.
        fleeting: the name of a cookie that is to go with the browser; empty: none is.
    """
    if made == given:
        return
    kept = {name: value for name, value in made if name != _COOKIE}
    for name in [name for name, _ in response.items() if name not in kept]:
        del response[name]
    for name, value in kept.items():
        if response.get(name) != value:
            response[name.title()] = value
    cookies = [value for name, value in made if name == _COOKIE and (name, value) not in given]
    names: set[str] = set()
    for morsel in map(_morsel, reversed(cookies)):  # the session's own comes last
        if morsel.key == fleeting and morsel.value:
            morsel["max-age"] = ""
        # Another library's cookie of the same name and another domain may be taken back beside it. Django keeps one
        # cookie for each key of a dictionary, and sends them without a look at the key.
        key = f"{morsel.key} of {morsel['domain']}{morsel['path']}" if morsel.key in names else morsel.key
        names.add(morsel.key)
        dict.__setitem__(response.cookies, key, morsel)
    if cookies:  # the cache middleware of Django 5.2.0 looks for "private" alone
        response["Cache-Control"] = "no-store, private"


def _morsel(text: str) -> Morsel[str]:
    """Return one `Set-Cookie` as Django keeps it."""
    pair, *attributes = text.split("; ")
    name, _, value = pair.partition("=")
    morsel: Morsel[str] = Morsel()
    morsel.set(name, value, value)
    for attribute in attributes:
        key, equals, said = attribute.partition("=")
        content: Any = said if equals else True
        morsel[key] = said.capitalize() if key == "SameSite" else content
    return morsel


def keep_others(given: HttpResponseBase, made: HttpResponseBase) -> None:
    """Take into a 503 what the app puts on all its responses: what browsers need for CORS, say.

    Args:
        given: the response that does not go out.
        made: the one that does.
    """
    for name, value in given.items():
        if stands_on_all(name) and name not in made:
            made[name] = value
