"""CSRF tokens of visitors without a session: they cost no record, and nobody can plant, share or keep one."""

import pytest

from roomkey import Request, SessionConfig, SessionManager, SessionMiddleware
from roomkey.csrf import csrf_token, verify_csrf_token
from roomkey.legacy import StarletteCookie
from roomkey.stores.memory import MemoryStore
from tests.asgi import HELLO, never
from tests.world import CountingStore

SECRET, OLD_SECRET = "the secret key of these tests, 32 bytes and more", "the secret key before it, 32 bytes and more"
COOKIE = b"__Host-session-csrf"


def cookies_of(headers):
    """Return name, value and attributes of each cookie that a response sets."""
    found = []
    for name, value in headers:
        if name == b"set-cookie":
            pair, _, attributes = value.partition(b"; ")
            found.append((*pair.split(b"=", 1), attributes))
    return found


class Server:
    """An app with Roomkey in front.

    Args:
        way: whether requests come through the middleware, or call the manager, or its blocking calls.
        store: where sessions are.
        options: of the configuration.
    """

    def __init__(self, way="middleware", store=None, **options):
        self.store = MemoryStore() if store is None else store
        settings = {"secret_key": SECRET, "https_only": True, **options}
        self.manager = SessionManager(store=self.store, **settings)
        self.answer = {"middleware": self._asgi, "manager": self._await, "sync": self._block}[way]

    async def _asgi(self, headers, act):
        sent, results = [], []

        async def app(scope, receive, send):
            results.append(act(scope["session"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send(HELLO)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "scheme": "https"}
        await SessionMiddleware(app, self.manager)(scope, never, send)
        return results[0], sent[0]["headers"]

    async def _await(self, headers, act):
        session = await self.manager.load(Request(headers=headers))
        return act(session), await self.manager.commit(session, raw=True)

    async def _block(self, headers, act):
        session = self.manager.sync.load(Request(headers=headers))
        return act(session), self.manager.sync.commit(session, raw=True)

    @property
    def rows(self):
        return len(self.store._records)


class Browser:
    """A browser with one site: it keeps the cookies that the server sets."""

    def __init__(self, server):
        self.server, self.jar, self.headers = server, {}, []

    async def ask(self, act, extra=b"", *, bare=False):
        """Send a request; return what `act` returned. `bare`: without cookies, as after a link on another site."""
        jar = {} if bare else self.jar
        sent = b"; ".join([name + b"=" + value for name, value in jar.items()] + ([extra] if extra else []))
        answer, self.headers = await self.server.answer([(b"cookie", sent)] if sent else [], act)
        for name, value, attributes in cookies_of(self.headers):
            self.jar.pop(name, None)
            if b"Max-Age=0" not in attributes:
                self.jar[name] = value
        return answer

    async def form(self):
        return await self.ask(csrf_token)

    async def post(self, token, extra=b""):
        return await self.ask(lambda session: verify_csrf_token(session, token), extra)

    async def log_in(self, user=7, *, bare=False):
        await self.ask(lambda session: session.update(user_id=user), bare=bare)

    async def log_out(self):
        await self.ask(lambda session: session.clear())


@pytest.fixture(params=["middleware", "manager", "sync"])
def way(request):
    return request.param


@pytest.fixture(params=[MemoryStore, CountingStore], ids=["at once", "waiting"])
def server(way, request):
    return Server(way, request.param())


# --- bots -------------------------------------------------------------------------------------------------------------


async def test_a_page_with_a_form_makes_no_record(server):
    """A bot that looks at it costs nothing, however often it comes; a browser gets one cookie, for its own host."""
    for _ in range(20):
        await Browser(server).form()
    assert server.rows == 0
    browser = Browser(server)
    token = await browser.form()
    ((name, _, attributes),) = cookies_of(browser.headers)
    assert (name, attributes) == (COOKIE, b"Path=/; HttpOnly; SameSite=lax; Secure")
    assert (b"cache-control", b"no-store") in browser.headers and (b"vary", b"Cookie") in browser.headers
    other = await browser.form()
    assert not cookies_of(browser.headers) and other != token
    assert await browser.post(token) and await browser.post(other)
    assert server.rows == 0


async def test_a_session_that_begins_keeps_the_forms(server):
    """The visitor puts something into a cart: forms that are open in other tabs are good."""
    browser = Browser(server)
    token = await browser.form()
    await browser.ask(lambda session: session.update(cart=[1]))
    assert server.rows == 1
    assert await browser.post(token)
    new = await browser.form()
    assert await browser.post(new) and await browser.post(token)


@pytest.mark.parametrize("options", [{"https_only": False}, {"domain": "shop.example"}, {"user_key": None}], ids=str)
async def test_where_the_cookie_could_be_planted_the_token_lies_in_the_session(options, way):
    """Over plain HTTP, and over several hosts. And where nobody knows who logs in."""
    server = Server(way, **options)
    browser = Browser(server)
    token = await browser.form()
    assert server.rows == 1 and set(browser.jar) == {b"session"}
    assert await browser.post(token)
    planted = Browser(Server(way))
    theirs = await planted.form()
    assert not await Browser(server).post(theirs, COOKIE + b"=" + planted.jar[COOKIE])


# --- attackers --------------------------------------------------------------------------------------------------------


async def test_a_token_that_the_attacker_fetched(server):
    """It is good with the attacker's own cookie, and with nobody else's, nor without one."""
    attacker, victim, stranger = Browser(server), Browser(server), Browser(server)
    theirs, mine = await attacker.form(), await victim.form()
    assert await attacker.post(theirs)
    assert not await victim.post(theirs) and not await attacker.post(mine)
    assert not await stranger.post(theirs)


async def test_a_second_cookie_of_the_name(server):
    """No browser sends two. Whoever gets another one in, before or after, makes no token good."""
    attacker, victim = Browser(server), Browser(server)
    theirs, mine = await attacker.form(), await victim.form()
    planted = COOKIE + b"=" + attacker.jar[COOKIE]
    assert not await victim.post(theirs, planted) and not await victim.post(mine, planted)


@pytest.mark.parametrize("name", [b"__host-session-csrf", b"session-csrf", b"__Secure-session-csrf", b"__Host-session"])
async def test_a_cookie_that_a_subdomain_may_set(server, name):
    """Only the exact name counts, which no subdomain may set."""
    attacker, victim = Browser(server), Browser(server)
    theirs = await attacker.form()
    assert not await victim.post(theirs, name + b"=" + attacker.jar[COOKIE])


async def test_a_value_that_was_made_elsewhere(server):
    """Not signed, by another key, for another cookie: none of it counts, and none of it opens a session."""
    elsewhere = Browser(Server("middleware", secret_key=OLD_SECRET))
    theirs = await elsewhere.form()
    browser = Browser(server)
    await browser.log_in()
    for value in (b"x", b"a" * 80, elsewhere.jar[COOKIE], browser.jar[b"session"]):
        forger = Browser(server)
        forger.jar[COOKIE] = value
        assert not await forger.post(theirs)
        forger.jar[COOKIE] = value
        token = await forger.form()
        assert forger.jar[COOKIE] != value and await forger.post(token)
    visitor = Browser(server)
    await visitor.form()
    visitor.jar[b"session"] = visitor.jar[COOKIE]
    assert await visitor.ask(lambda session: session.get("user_id")) is None


async def test_two_apps_on_one_host(way):
    """Another path or another cookie of the session has another cookie for its visitors."""
    names = set()
    for options in (
        {},
        {"path": "/a"},
        {"path": "/b"},
        {"session_cookie": "sid"},
        {"session_cookie": "__Secure-session"},
        {"session_cookie": "__Host-session"},
    ):
        browser = Browser(Server(way, **options))
        await browser.form()
        ((name, _, attributes),) = cookies_of(browser.headers)
        assert name.startswith(b"__Host-") and b"Path=/;" in attributes
        names.add(name)
    assert len(names) == 6


class OwnConfig(SessionConfig):
    """As an app may have it: it takes no options."""

    def __init__(self, **options):
        super().__init__(secret_key=SECRET, store="memory://", https_only=True, **options)


@pytest.mark.parametrize("legacy", [(), [StarletteCookie("k", cookie_name="old")]], ids=["", "legacy"])
async def test_a_configuration_with_an_init_of_its_own(legacy):
    """Its cookies are those of any other."""

    class Fixed(OwnConfig):
        def __init__(self):
            super().__init__(legacy=legacy)

    manager = SessionManager(Fixed())
    session = await manager.load(Request())
    csrf_token(session)
    ((name, _, attributes),) = cookies_of(await manager.commit(session, raw=True))
    assert (name, attributes) == (COOKIE, b"Path=/; HttpOnly; SameSite=lax; Secure")


async def test_a_long_name_of_the_sessions_cookie(way):
    """The cookie beside it has a name that is no longer than a name may be, and is another one for each."""
    names = set()
    for name in ("n" * 250, "n" * 255 + "a", "n" * 255 + "b"):
        browser = Browser(Server(way, session_cookie=name))
        token = await browser.form()
        assert await browser.post(token)
        names |= set(browser.jar)
    assert len(names) == 3 and max(map(len, names)) <= 256


# --- log-ins and log-outs ---------------------------------------------------------------------------------------------


async def test_a_log_in_makes_the_token_worthless(server):
    """The cookie is taken back. A browser that keeps it all the same has a token for nothing."""
    browser = Browser(server)
    token = await browser.form()
    kept = browser.jar[COOKIE]
    await browser.log_in()
    assert set(browser.jar) == {b"session"}
    assert not await browser.post(token)
    assert not await browser.post(token, COOKIE + b"=" + kept)


async def test_a_token_from_before_a_log_in_is_worthless_after_the_log_out(server):
    """Somebody who knew it cannot use it against the next visitor of the same browser."""
    browser = Browser(server)
    token = await browser.form()
    await browser.log_in()
    await browser.log_out()
    assert not browser.jar
    assert not await browser.post(token)
    await browser.form()
    assert not await browser.post(token)


STORES = {"memory": MemoryStore, "waiting": CountingStore, "cookie": lambda: "cookie://"}


@pytest.mark.parametrize("has_form", [False, True], ids=["", "with a form"])
@pytest.mark.parametrize("store", STORES)
async def test_a_log_in_that_brings_no_cookies(way, store, has_form):
    """SameSite=Strict holds them back after a link in a mail, and SameSite=Lax from another site's form."""
    browser = Browser(Server(way, STORES[store](), same_site="strict"))
    token = await browser.form()

    def log_in(session):
        if has_form:
            csrf_token(session)
        session["user_id"] = 7

    await browser.ask(log_in, bare=True)
    assert set(browser.jar) == {b"session"}
    del browser.jar[b"session"]  # it ends elsewhere
    assert not await browser.post(token)


@pytest.mark.parametrize("store", STORES)
async def test_a_log_out_that_leaves_a_message(way, store):
    """It begins another session. The tokens from before the log-in are worthless all the same."""
    browser = Browser(Server(way, STORES[store]()))
    page = Browser(browser.server)
    token = await page.form()
    await browser.log_in()
    browser.jar[COOKIE] = page.jar[COOKIE]
    await browser.ask(lambda session: (session.clear(), session.flash("bye")))
    assert set(browser.jar) == {b"session"}
    assert not await browser.post(token)
    new = await browser.form()
    assert await browser.post(new) and not await browser.post(token)


async def test_a_page_of_a_user_takes_back_what_a_visitor_left(server):
    """Where the log-in could not: a page that asks for a token does, or a form that is sent, and no other page."""
    page = Browser(server)
    another = await Browser(server).form()
    for act in (csrf_token, lambda session: verify_csrf_token(session, another)):
        await page.form()
        kept = page.jar[COOKIE]
        await page.log_in()
        page.jar[COOKIE] = kept
        await page.ask(lambda session: session["user_id"])
        assert set(page.jar) == {b"session", COOKIE}
        await page.ask(act)
        assert set(page.jar) == {b"session"}
        assert (b"cache-control", b"no-store") in page.headers
        await page.ask(act)
        assert not cookies_of(page.headers)
        await page.log_out()


async def test_a_cookie_that_outlived_the_log_in_goes_with_the_log_out(server):
    """A page that was under way during the log-in brought it."""
    browser, page = Browser(server), Browser(server)
    token = await page.form()
    await browser.log_in()
    browser.jar[COOKIE] = page.jar[COOKIE]
    assert not await browser.post(token)
    await browser.log_out()
    assert not browser.jar
    assert not await browser.post(token)


async def test_the_page_after_a_log_out_has_a_token_of_its_own(server):
    """Nobody who saw the tokens from before knows it, and no session begins for it."""
    browser = Browser(server)
    before = await browser.form()
    kept = browser.jar[COOKIE]
    await browser.log_in()
    browser.jar[COOKIE] = kept
    token = await browser.ask(lambda session: (session.clear(), csrf_token(session))[1])
    assert set(browser.jar) == {COOKIE} and browser.jar[COOKIE] != kept
    assert server.rows == 0
    assert await browser.post(token) and not await browser.post(before)


async def test_a_token_that_a_page_made_before_it_logged_in(server):
    """It is the visitor's, and worthless at once; one that was made after it is the user's."""
    browser = Browser(server)

    def log_in(session):
        before = csrf_token(session)
        session["user_id"] = 7
        return before, csrf_token(session)

    before, after = await browser.ask(log_in)
    assert set(browser.jar) == {b"session"}
    assert await browser.post(after) and not await browser.post(before)


async def test_sessions_in_the_cookie(way):
    """With cookie:// it is the same: no session begins, and a log-in makes the token worthless."""
    browser = Browser(Server(way, "cookie://"))
    token = await browser.form()
    assert set(browser.jar) == {COOKIE} and await browser.post(token)
    await browser.log_in()
    assert COOKIE not in browser.jar and not await browser.post(token)
    await browser.log_out()
    assert not browser.jar and not await browser.post(token)


async def test_the_secret_key_rotates(way):
    """Forms that are open meanwhile are good for as long as the old key verifies."""
    browser = Browser(Server(way, secret_key=OLD_SECRET))
    token = await browser.form()
    browser.server = Server(way, secret_key=[SECRET, OLD_SECRET])
    assert await browser.post(token)
    browser.server = Server(way)
    assert not await browser.post(token)
