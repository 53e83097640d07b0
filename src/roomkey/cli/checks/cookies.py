"""The session's cookie: its attributes, its name and its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations

from roomkey.cli.checks.looked import Answer, Finding, Gap, Looked, check
from roomkey.config import SessionConfig
from roomkey.stores.cookie import CookieStore

__all__ = ["cookie_large", "cookie_name_twice", "cookie_no_prefix", "cookie_not_secure"]

_HTTPS = "docs/howto-operate.md#behind-https"
_NEAR = 3584  # bytes of a cookie, of 4,096 that browsers keep


@check("cookie-not-secure", _HTTPS)
def cookie_not_secure(looked: Looked) -> Iterator[Finding | Gap]:
    """The session's cookie has no `Secure`: browsers send it over plain HTTP too."""
    if looked.public is not None and looked.public.scheme == "http":
        return  # `Secure` would lose the cookie there
    for name in _names(looked, lambda config: not config.https_only):
        yield Finding(
            f"The cookie {name!r} has no `Secure`. Browsers send it over plain HTTP too, where others read it.",
            f"Set {looked.option('https_only')}=True wherever the site is served over HTTPS.",
        )
    answers = [pair.there for pair in looked.public.pairs] if looked.public is not None else []
    sent = [cookie for answer in answers for cookie in answer.cookies]
    for name in _names(looked, lambda config: bool(config.https_only)):
        if any(_name(cookie) == name and not _is_secure(cookie) for cookie in sent):
            yield Finding(
                f"The running site sends the cookie {name!r} without `Secure`, over HTTPS.",
                f"Set {looked.option('https_only')}=True there too, and see that no proxy changes the cookie.",
            )


@check("cookie-no-prefix", _HTTPS)
def cookie_no_prefix(looked: Looked) -> Iterator[Finding | Gap]:
    """The session's cookie is not called `__Host-...`: a subdomain can plant one."""
    if looked.public is not None and looked.public.scheme == "http":
        return  # browsers keep no such cookie there
    for name in _names(looked, lambda config: not config.session_cookie.startswith("__Host-")):
        yield Finding(
            f"The cookie {name!r} has no prefix `__Host-`. A subdomain, or a page over plain HTTP, can plant a session "
            "in a browser.",
            f'Set {looked.option("session_cookie")}="__Host-session" and {looked.option("https_only")}=True. Leave '
            f"{looked.option('domain')} out, and {looked.option('path')} at its default. Everybody logs in again.",
        )


@check("cookie-name-twice", "docs/howto-asgi.md#beside-another-session-middleware")
def cookie_name_twice(looked: Looked) -> Iterator[Finding | Gap]:
    """Two session middlewares use one cookie name."""
    fix = "Keep one of them, or give each its own session_cookie."
    pairs = set()
    for answer in looked.answers:
        sessions = [layer for layer in answer.layers if layer.kind in ("roomkey", "session") and layer.cookie]
        names = Counter(layer.cookie for layer in sessions)
        for name in (each for each in names if names[each] > 1):
            pairs.add((name, " and ".join(layer.name for layer in sessions if layer.cookie == name)))
    for name, middlewares in sorted(pairs):
        yield Finding(f"Two middlewares of one request use the name {name!r}: {middlewares}.", fix)
    told = {name for name, _ in pairs}
    for one, other in combinations([manager.config for manager in looked.with_cookie], 2):
        if one.session_cookie not in told and _is_rival(one, other):
            told.add(one.session_cookie)
            yield Finding(
                f"Two session managers use the cookie {one.session_cookie!r} with another key or another store. A "
                "browser keeps one of the two sessions.",
                "Give both one SessionConfig, or each its own session_cookie.",
            )


@check("cookie-large", "docs/howto-stores.md#in-the-cookie")
def cookie_large(looked: Looked) -> Iterator[Finding | Gap]:
    """A cookie is near 4 KB, which browsers and servers cut off or refuse."""
    answers = _answers(looked)
    for name, size in sorted({_name(cookie): len(cookie) for each in answers for cookie in each.cookies}.items()):
        if size > _NEAR:
            yield Finding(
                f"The cookie {name!r} takes {size:,} of the 4,096 bytes that browsers keep. A larger one is lost "
                "without a word.",
                "Keep less in it, or in the session of a store: redis:// or sqlite:///, say.",
            )
    for config in (manager.config for manager in looked.with_cookie):
        if isinstance(config.store, CookieStore):
            count = max((_pieces(config.session_cookie, answer) for answer in answers), default=0)
            if count > 1:
                yield Finding(
                    f"The session travels in {count} cookies. Many servers refuse more than 8 KB of headers.",
                    "Keep less in the session, or keep it in a store: redis:// or sqlite:///, say.",
                )


def _names(looked: Looked, is_wrong: Callable[[SessionConfig], bool]) -> list[str]:
    return sorted({each.config.session_cookie for each in looked.with_cookie if is_wrong(each.config)})


def _is_rival(one: SessionConfig, other: SessionConfig) -> bool:
    place = (one.session_cookie, one.path, one.domain) == (other.session_cookie, other.path, other.domain)
    return place and (one.secret_key != other.secret_key or one.store is not other.store)


def _answers(looked: Looked) -> list[Answer]:
    public = [pair.there for pair in looked.public.pairs] if looked.public is not None else []
    return [*looked.answers, *looked.polls, *public]


def _name(cookie: str) -> str:
    return cookie.partition("=")[0]


def _is_secure(cookie: str) -> bool:
    return "secure" in [part.strip().lower() for part in cookie.split(";")[1:]]


def _pieces(name: str, answer: Answer) -> int:
    """Return over how many cookies an answer spreads a session."""
    given = [each for each in answer.cookies if not each.partition("=")[2].startswith((";", '""'))]
    return sum(_name(each) == name or _name(each).rpartition(".")[0] == name for each in given)
