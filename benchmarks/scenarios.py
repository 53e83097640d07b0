"""What is measured in process: a handler, the cookies that come with the requests, and the proof that work was done."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.driver import Answer, App, Receive, Scope, Send, ask, respond
from benchmarks.subjects import Subject

__all__ = [
    "ANONYMOUS",
    "LARGE",
    "LOOK",
    "SCENARIOS",
    "SMALL",
    "ProofFailed",
    "Scenario",
    "filling",
    "json_size",
    "showing",
]

LOOK = "HEAD"  # the method of a request that only reads, in a scenario whose cookies serve once

_views = itertools.count(1)
_users = itertools.cycle(range(1000, 10000))  # all of one length, and seldom the same one

SMALL: dict[str, Any] = {  # 300 bytes as JSON
    "user_id": 1042,
    "theme": "dark",
    "views": 0,
    "locale": "en-GB",
    "csrf": "5f0c8f6d0b7e4a2f9f4f1f6f8b1c6a3e",
    "cart": [{"sku": "A-1001", "n": 2}, {"sku": "B-2002", "n": 1}, {"sku": "C-3003", "n": 4}],
    "next": "/orders/2026",
    "seen": [101, 202, 303, 404, 505, 606],
    "flash": ["Your address was saved."],
}
ANONYMOUS: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "user_id"}
LARGE: dict[str, Any] = {  # 4 KB as JSON
    **SMALL,
    "history": [{"sku": f"H-{number:04}", "n": number % 7, "note": "put aside for later"} for number in range(65)],
}


def json_size(data: dict[str, Any]) -> int:
    """Return how many bytes the data has as JSON."""
    return len(json.dumps(data))


class ProofFailed(Exception):
    """A subject did not do what the scenario asks of it: its figure would mean nothing."""


# --- the handlers -----------------------------------------------------------------------------------------------------


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")


async def _read(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, scope["session"]["theme"].encode())


async def _read_list(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, scope["session"]["cart"][0]["sku"].encode())


async def _write(scope: Scope, receive: Receive, send: Send) -> None:
    views = next(_views)  # never the same, so that nobody may skip the save
    scope["session"]["views"] = views
    await respond(send, b"%d" % views)


async def _log_in(scope: Scope, receive: Receive, send: Send) -> None:
    user = next(_users)
    scope["session"].update(SMALL | {"user_id": user})
    await respond(send, b"%d" % user)


async def _say_who(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["method"] == LOOK:
        await _read(scope, receive, send)
        return
    user = next(_users)
    scope["session"]["user_id"] = user
    await respond(send, b"%d" % user)


async def _who(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"anonymous" if scope["session"].get("user_id") is None else b"known")


def showing(key: str) -> App:
    async def show(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, str(scope["session"].get(key)).encode())

    return show


def filling(data: dict[str, Any]) -> App:
    async def fill(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        session.update(data)
        if "user_id" in data:
            session["user_id"] = next(_users)
        await respond(send, b"filled")

    return fill


# --- the proofs -------------------------------------------------------------------------------------------------------


def _expect(subject: Subject, what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise ProofFailed(f"{subject.name}: {what}: got {got!r}, wanted {wanted!r}")


async def _answers(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "the body", answer.body, b"ok")


async def _reads(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "the value read", answer.body, b"dark")


async def _reads_list(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "what the list holds", answer.body, b"A-1001")


async def _stays(subject: Subject, cookie: str | None, answer: Answer) -> None:
    later = await ask(subject.wrap(_read), answer.cookie or cookie)
    _expect(subject, "the session after a request that left it alone", later.body, b"dark")


async def _persists(subject: Subject, cookie: str | None, answer: Answer) -> None:
    # Where the data is in the cookie, the new cookie has what was written.
    later = await ask(subject.wrap(showing("views")), answer.cookie or cookie)
    _expect(subject, "the value written, on the next request", later.body, answer.body)


async def _logs_in(subject: Subject, cookie: str | None, answer: Answer) -> None:
    if cookie is None:
        _expect(subject, "a cookie after the log-in", answer.cookie is not None, True)
    for key, wanted in ("user_id", answer.body), ("theme", b"dark"):
        later = await ask(subject.wrap(showing(key)), answer.cookie or cookie)
        _expect(subject, f"{key} on the request after the log-in", later.body, wanted)


async def _is_anonymous(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "who came with a forged cookie", answer.body, b"anonymous")


# --- the scenarios ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """One column of the tables.

    Attributes:
        name: its key.
        title: what the tables call it.
        handler: the app behind the middleware.
        prove: looks at one answer, and raises `ProofFailed` where the work was not done.
        data: what the session holds that the cookie names; None: the requests have no cookie.
        forged: whether the cookie is forged.
        once: whether a cookie serves for one request, because that request makes another one of its session.
    """

    name: str
    title: str
    handler: App
    prove: Callable[[Subject, str | None, Answer], Awaitable[None]]
    data: dict[str, Any] | None = None
    forged: bool = False
    once: bool = False

    def handler_of(self, subject: Subject) -> App:
        """Return the handler to put behind the subject. Where there is no session, it only answers."""
        return self.handler if subject.has_session else bare

    async def cookies(self, subject: Subject, number: int) -> list[str | None]:
        """Make sessions, and return the cookies that the requests carry, one for each."""
        if self.data is None:
            return [None] * number
        if not subject.has_session:
            return ["x" * 80] * number  # only a header of the same kind
        fill = subject.wrap(filling(self.data))
        cookies = [await self._cookie(subject, fill) for _ in range(number)]
        return [_forge(cookie) for cookie in cookies] if self.forged else [*cookies]

    async def _cookie(self, subject: Subject, fill: App) -> str:
        cookie = (await ask(fill)).cookie
        if cookie is None:
            raise ProofFailed(f"{subject.name}: no cookie for a session with data")
        return cookie

    async def check(self, subject: Subject, app: App) -> None:
        """Prove that the subject does the work that is about to be measured.

        Raises:
            ProofFailed: it does not.
        """
        (cookie,) = await self.cookies(subject, 1)
        answer = await ask(app, cookie)
        _expect(subject, f"{self.title}: status", answer.status, 200)
        await (self.prove if subject.has_session else _answers)(subject, cookie, answer)


def _forge(cookie: str) -> str:
    """Change one character near the end: in the signature where there is one, in the ID where there is none."""
    return cookie[:-5] + ("a" if cookie[-5] != "a" else "b") + cookie[-4:]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("anonymous", "anonymous", bare, _answers),
        Scenario("untouched", "untouched, with a cookie", bare, _stays, SMALL),
        Scenario("read", "read a key", _read, _reads, SMALL),
        Scenario("read-list", "read a list", _read_list, _reads_list, SMALL),
        Scenario("write", "write", _write, _persists, SMALL),
        Scenario("log-in", "log in", _log_in, _logs_in),
        Scenario("forged", "forged", _who, _is_anonymous, SMALL, forged=True),
        Scenario("log-in-known", "log in, had a session", _say_who, _logs_in, ANONYMOUS, once=True),
        Scenario("read-4k", "read 4 KB", _read, _reads, LARGE),
        Scenario("write-4k", "write 4 KB", _write, _persists, LARGE),
    )
}
