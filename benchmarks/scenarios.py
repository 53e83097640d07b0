"""What the subjects do: a handler, the cookie that comes with the request, and the proof that the work was done."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.driver import Answer, App, Receive, Scope, Send, ask, respond
from benchmarks.subjects import Subject

_views = itertools.count(1)
_USER = 1042

SMALL: dict[str, Any] = {  # 300 bytes as JSON
    "user_id": _USER,
    "theme": "dark",
    "views": 0,
    "locale": "en-GB",
    "csrf": "5f0c8f6d0b7e4a2f9f4f1f6f8b1c6a3e",
    "cart": [{"sku": "A-1001", "n": 2}, {"sku": "B-2002", "n": 1}, {"sku": "C-3003", "n": 4}],
    "next": "/orders/2026",
    "seen": [101, 202, 303, 404, 505, 606],
    "flash": ["Your address was saved."],
}
LARGE: dict[str, Any] = {  # 4 KB as JSON
    **SMALL,
    "history": [{"sku": f"H-{number:04}", "n": number % 7, "note": "put aside for later"} for number in range(65)],
}


class ProofFailed(Exception):
    """A subject did not do what the scenario asks of it: its figure would mean nothing."""


async def _bare(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"ok")


async def _read(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, scope["session"]["theme"].encode())


async def _write(scope: Scope, receive: Receive, send: Send) -> None:
    views = next(_views)  # never the same, so that nobody may skip the save
    scope["session"]["views"] = views
    await respond(send, b"%d" % views)


async def _log_in(scope: Scope, receive: Receive, send: Send) -> None:
    scope["session"]["user_id"] = _USER
    await respond(send, b"welcome")


async def _who(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, b"anonymous" if scope["session"].get("user_id") is None else b"known")


def _showing(key: str) -> App:
    async def show(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, str(scope["session"].get(key)).encode())

    return show


def _filling(data: dict[str, Any]) -> App:
    async def fill(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"].update(data)
        await respond(send, b"filled")

    return fill


def _expect(subject: Subject, what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise ProofFailed(f"{subject.name}: {what}: got {got!r}, wanted {wanted!r}")


async def _reads(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "the value read", answer.body, b"dark")


async def _answers(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "the body", answer.body, b"ok")


async def _stays(subject: Subject, cookie: str | None, answer: Answer) -> None:
    later = await ask(subject.wrap(_read), answer.cookie or cookie)
    _expect(subject, "the session after a request that left it alone", later.body, b"dark")


async def _persists(subject: Subject, cookie: str | None, answer: Answer) -> None:
    # Where the data is in the cookie, the new cookie has what was written.
    later = await ask(subject.wrap(_showing("views")), answer.cookie or cookie)
    _expect(subject, "the value written, on the next request", later.body, answer.body)


async def _logs_in(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "a cookie after the log-in", answer.cookie is not None, True)
    later = await ask(subject.wrap(_showing("user_id")), answer.cookie)
    _expect(subject, "the user on the next request", later.body, b"%d" % _USER)


async def _is_anonymous(subject: Subject, cookie: str | None, answer: Answer) -> None:
    _expect(subject, "who came with a forged cookie", answer.body, b"anonymous")


@dataclass(frozen=True)
class Scenario:
    """One column of the table. `data` is what the session holds that the cookie names; None: no cookie."""

    name: str
    title: str
    handler: App
    prove: Callable[[Subject, str | None, Answer], Awaitable[None]]
    data: dict[str, Any] | None = None
    forged: bool = False

    def app(self, subject: Subject) -> App:
        """Return the app to measure. Without a session there is nothing to do but to answer."""
        return subject.wrap(self.handler if subject.has_session else _bare)

    async def cookie(self, subject: Subject) -> str | None:
        """Return the cookie that the requests carry. Without a session it is only a header of the same kind."""
        if self.data is None:
            return None
        if not subject.has_session:
            return "x" * 76
        cookie = (await ask(subject.wrap(_filling(self.data)))).cookie
        if cookie is None:
            raise ProofFailed(f"{subject.name}: no cookie for a session with data")
        if not self.forged:
            return cookie
        # One character near the end: in the signature where there is one, in the ID where there is none.
        return cookie[:-5] + ("a" if cookie[-5] != "a" else "b") + cookie[-4:]

    async def check(self, subject: Subject, app: App, cookie: str | None) -> None:
        """Prove that the subject does the work that is about to be measured.

        Raises:
            ProofFailed: it does not.
        """
        answer = await ask(app, cookie)
        _expect(subject, f"{self.title}: status", answer.status, 200)
        await (self.prove if subject.has_session else _answers)(subject, cookie, answer)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("anonymous", "anonymous", _bare, _answers),
        Scenario("read", "read a key", _read, _reads, SMALL),
        Scenario("untouched", "untouched, with cookie", _bare, _stays, SMALL),
        Scenario("write", "write a key", _write, _persists, SMALL),
        Scenario("log-in", "log in", _log_in, _logs_in),
        Scenario("forged", "forged cookie", _who, _is_anonymous, SMALL, forged=True),
        Scenario("read-4k", "read 4 KB", _read, _reads, LARGE),
        Scenario("write-4k", "write 4 KB", _write, _persists, LARGE),
    )
}
