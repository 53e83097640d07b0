"""A small app in front of a store, for tests of outages."""

import asyncio
import time

from roomkey import SessionConfig, SessionMiddleware
from roomkey.stores.guard import SETTLING

__all__ = ["SLACK", "TIMEOUT", "Site", "lines", "refused_in_time"]

TIMEOUT = 0.5  # seconds: the store_timeout of these tests
SLACK = 1.5  # seconds that a busy machine may take beside it


class Site:
    """An app in front of the store, and raw requests to it."""

    def __init__(self, store, timeout=TIMEOUT):
        config = SessionConfig(secret_key="k" * 32, store=store, store_timeout=timeout)
        self.app = SessionMiddleware(self._handle, config)
        self.store = store

    async def _handle(self, scope, receive, send):
        scope["act"](scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, card=None, act=lambda session: None):
        """Return status, headers and seconds of one request."""
        sent = []

        async def send(message):
            sent.append(message)

        headers = [] if card is None else [(b"cookie", b"session=" + card)]
        begin = time.monotonic()
        await self.app({"type": "http", "headers": headers, "act": act, "method": "GET", "path": "/"}, None, send)
        return sent[0]["status"], dict(sent[0]["headers"]), time.monotonic() - begin

    async def log_in(self, user):
        status, headers, _ = await self.ask(act=lambda session: session.update(user_id=user))
        assert status == 200
        return headers[b"set-cookie"].split(b";")[0].partition(b"=")[2]

    async def read(self, card):
        """Return the status, and what the session held."""
        seen = []
        status, _, _ = await self.ask(card, lambda session: seen.append(session.copy()))
        return status, seen[0] if seen else None

    async def until_served(self, card):
        """Return after how many seconds requests are served again; wait until the log says so too."""
        begin = time.monotonic()
        while (await self.ask(card))[0] != 200:
            assert time.monotonic() - begin < 20, "it does not come back"
            await asyncio.sleep(0.02)
        took = time.monotonic() - begin
        await asyncio.sleep(SETTLING)
        assert (await self.ask(card))[0] == 200
        return took


async def refused_in_time(site, card, *, many=40):
    """Many requests at once are all answered 503 with Retry-After, within the time limit."""
    begin = time.monotonic()
    answers = await asyncio.gather(
        *(site.ask(card, act) for act in (lambda s: None, lambda s: s.update(x=1)) for _ in range(many // 2))
    )
    assert time.monotonic() - begin < TIMEOUT + SLACK
    assert {status for status, _, _ in answers} == {503}
    assert all(headers[b"retry-after"].isdigit() for _, headers, _ in answers)


def lines(caplog, level):
    return [record for record in caplog.records if record.name == "roomkey" and record.levelno == level]
