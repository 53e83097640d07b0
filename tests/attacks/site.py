"""An app with Roomkey in front, and the raw requests of an attacker."""

from roomkey import SessionConfig, SessionMiddleware
from tests.driver import Driver, driver_of

SECRET = "the secret key of these tests, 32 bytes and more"


class Site:
    """An app with Roomkey in front, and raw requests to it."""

    def __init__(self, store, clock, **options):
        self.clock = clock
        self.store = store
        options = {"secret_key": SECRET, "max_age": 1000, "store_timeout": 10, **options}
        self.config = SessionConfig(store=store, clock=clock, **options)
        self.app = SessionMiddleware(self._handle, self.config)
        self.life: Driver = driver_of(self.app)
        self.act = lambda session: None
        self.wait = None
        self.headers = ()

    async def _handle(self, scope, receive, send):
        session = scope["session"]
        self.seen = session.copy()
        result = self.act(session)
        if result is not None and hasattr(result, "__await__"):
            await result
        await send({"type": "http.response.start", "status": 200, "headers": list(self.headers)})
        await send({"type": "http.response.body", "body": b"ok"})

    async def ask(self, cookie=None, act=None, headers=()):
        """Send one request; return what its handler found in the session, and the headers of the answer."""
        self.act = act or (lambda session: None)
        sent = []

        async def send(message):
            sent.append(message)

        raw = [*headers, *([] if cookie is None else [(b"cookie", b"session=" + cookie)])]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": raw, "client": ("192.0.2.1", 1)}
        self.seen = None
        await self.app(scope, None, send)
        return self.seen, sent[0]["headers"]

    async def log_in(self, user=42, cookie=None):
        """Log in; return the card that the answer gave."""
        _, headers = await self.ask(cookie, lambda session: session.__setitem__("user_id", user))
        return card_in(headers)

    async def who(self, cookie):
        seen, _ = await self.ask(cookie)
        return seen.get("user_id")


def set_cookies(headers):
    return [value for name, value in headers if name == b"set-cookie"]


def card_in(headers):
    (cookie,) = set_cookies(headers)
    return cookie.split(b";")[0].partition(b"=")[2]


def update(**values):
    return lambda session: session.update(values)
