"""The story that the site of every adaptor has to tell, over HTTP.

A site answers these, with JSON. It is asked by GET, so that any framework can have it in a few lines.

- `/show/-`: shows the session, as all below do: `{"pid": the process, "session": what is in it}`.
- `/write/KEY`: puts 1 under the key.
- `/add/KEY`: adds 1 to what is there, with `change()`.
- `/login/USER`: puts the user under `user_id`.
- `/logout/-`: clears the session.
- `/slow/GATE`: reads `user_id`, waits at the gate, and then puts what it read under `late`.
- `/begun/GATE`: whether somebody waits at the gate: `{"begun": true}`.
- `/open/GATE`: opens it.

Several processes may serve a site, each under a URL of its own or all under one.
"""

import asyncio
import itertools
import secrets
import time
from http.cookies import SimpleCookie

import httpx

from tests.loop_clock import HANGS, until

__all__ = ["tell", "tell_of_an_outage"]

TOGETHER = 20  # requests at once
PROMPT = 60.0  # seconds within which a refusal comes: many times `store_timeout`, for the machine may be busy


class Site:
    """The processes of a site, asked in turn."""

    def __init__(self, urls):
        self.pids = set()
        self._urls = itertools.cycle(urls)
        self._clients = {url: httpx.AsyncClient(base_url=url, timeout=HANGS, trust_env=False) for url in urls}

    async def close(self):
        for client in self._clients.values():
            await client.aclose()

    async def ask(self, path, card=None):
        """Return the answer of the process whose turn it is."""
        client = self._clients[next(self._urls)]
        answer = await client.get(path, headers={} if card is None else {"Cookie": f"session={card}"})
        client.cookies.clear()
        return answer

    async def page(self, path, card=None):
        """Return what an answer shows; it must be a good one."""
        answer = await self.ask(path, card)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        self.pids.add(page.get("pid", 0))
        return page

    async def session(self, card):
        """Return what each process finds under a card; it must be the same."""
        first, *others = [(await self.page("/show/-", card))["session"] for _ in self._clients]
        assert all(other == first for other in others)
        return first

    async def card(self, path, card=None):
        """Return the value of the cookie that an answer sets."""
        answer = await self.ask(path, card)
        assert answer.status_code == 200, answer.text
        return _cookie(answer).value


def _cookie(answer):
    (line,) = answer.headers.get_list("set-cookie")
    return SimpleCookie(line)["session"]


async def tell(urls, workers=2):
    """Tell all of it but the outage.

    Args:
        urls: base URLs of the site's processes.
        workers: how many processes there are.
    """
    site = Site(urls)
    try:
        await an_anonymous_visit_sets_no_cookie(site)
        await a_write_sets_a_cookie(site)
        await a_log_in_changes_the_id(site)
        await writes_at_once_all_survive(site)
        await changes_add_up(site)
        await a_log_out_is_final_against_a_slow_request(site)
        await a_copied_cookie_is_refused(site)
        await all_processes_serve(site, workers)
    finally:
        await site.close()


async def tell_of_an_outage(urls, hurried, pause, resume):
    """Tell what becomes of requests while the store is down.

    Args:
        urls: as for `tell`.
        hurried: the base URL of one more process, which waits for the store only for a moment.
        pause: lets the store answer nothing.
        resume: lets it go on.
    """
    site, hurried = Site(urls), Site([hurried])
    try:
        await a_store_that_is_down_is_a_503(site, hurried, pause, resume)
    finally:
        await site.close()
        await hurried.close()


async def an_anonymous_visit_sets_no_cookie(site):
    """Who only looks has an empty session and gets no cookie."""
    answer = await site.ask("/show/-")
    assert answer.status_code == 200 and answer.json()["session"] == {}
    assert "set-cookie" not in answer.headers and answer.headers["vary"] == "Cookie"


async def a_write_sets_a_cookie(site):
    """The first write gives a cookie that scripts cannot read, and no cache keeps the response."""
    answer = await site.ask("/write/cart")
    cookie = _cookie(answer)
    assert cookie["httponly"] and cookie["samesite"].lower() == "lax" and cookie["path"] == "/"
    assert "no-store" in answer.headers["cache-control"].split(", ")
    assert await site.session(cookie.value) == {"cart": 1}


async def a_log_in_changes_the_id(site):
    """A user who is put into the session gets a new ID, keeps what was there, and the old ID opens nothing."""
    before = await site.card("/write/cart")
    after = await site.card("/login/ann", before)
    assert after != before
    assert await site.session(after) == {"cart": 1, "user_id": "ann"}
    assert await site.session(before) == {}
    again = await site.card("/login/bob", after)
    assert again != after and await site.session(after) == {}


async def writes_at_once_all_survive(site):
    """Requests at once that each write a key keep each other's."""
    card = await site.card("/login/ann")
    answers = await asyncio.gather(*(site.ask(f"/write/key{n}", card) for n in range(TOGETHER)))
    assert {answer.status_code for answer in answers} == {200}
    assert not any("set-cookie" in answer.headers for answer in answers)
    assert await site.session(card) == {"user_id": "ann"} | {f"key{n}": 1 for n in range(TOGETHER)}


async def changes_add_up(site):
    """Requests at once that each add to one number add up."""
    card = await site.card("/login/ann")
    await asyncio.gather(*(site.page("/add/n", card) for _ in range(TOGETHER)))
    assert await site.session(card) == {"user_id": "ann", "n": TOGETHER}


async def a_log_out_is_final_against_a_slow_request(site):
    """A request that began before the log-out and ends after it brings nothing back."""
    card, gate = await site.card("/login/ann"), secrets.token_hex(8)
    slow = asyncio.create_task(site.ask(f"/slow/{gate}", card))

    async def has_begun():
        return slow.done() or (await site.page(f"/begun/{gate}"))["begun"]

    await until(has_begun)
    assert not slow.done()
    answer = await site.ask("/logout/-", card)
    gone = _cookie(answer)
    assert gone.value == "" and gone["max-age"] == "0"
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    await site.page(f"/open/{gate}")
    answer = await slow
    assert answer.status_code in (200, 400), answer.text  # Django refuses where a session was ended meanwhile
    for line in answer.headers.get_list("set-cookie"):
        late = SimpleCookie(line)["session"].value
        assert not late or await site.session(late) == {}
    assert await site.session(card) == {}


async def a_copied_cookie_is_refused(site):
    """A cookie that was copied before the log-out opens nothing, and a write with it begins a session of its own."""
    card = await site.card("/login/ann")
    await site.page("/logout/-", card)
    assert await site.session(card) == {}
    fresh = await site.card("/write/stolen", card)
    assert fresh != card and await site.session(fresh) == {"stolen": 1}
    assert await site.session(card) == {}


async def all_processes_serve(site, workers):
    """Each process had a part in the story; where they share a URL, the system may have given all to one so far."""

    async def all_seen():
        await asyncio.gather(*(site.page("/show/-") for _ in range(TOGETHER)))
        return len(site.pids - {0}) >= workers

    await until(all_seen)
    assert len(site.pids - {0}) == workers


async def a_store_that_is_down_is_a_503(site, hurried, pause, resume):
    """While the store is silent, a user's requests are refused in time, visitors are served, and nothing is lost."""
    card = await site.card("/login/ann")
    pause()
    try:
        began = time.monotonic()
        for path in ("/show/-", "/write/lost"):
            answer = await hurried.ask(path, card)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
            assert "set-cookie" not in answer.headers and "no-store" in answer.headers["cache-control"]
        assert time.monotonic() - began < PROMPT
        assert (await hurried.ask("/show/-")).status_code == 200
    finally:
        resume()

    async def is_served():
        return (await hurried.ask("/show/-", card)).status_code == 200

    await until(is_served)
    assert await site.session(card) == {"user_id": "ann"}
