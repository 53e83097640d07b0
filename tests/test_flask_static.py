"""Static files on Flask: nothing is loaded for them, unless something uses the session."""

import flask
import pytest
from flask import Blueprint, Flask, session

from roomkey.flask import FlaskSession, Roomkey
from tests.asgi import SECRET, SpyStore

URLS = {"of the app": "/static/file.txt", "of a blueprint": "/shop/static/file.txt", "at the root": "/file.txt"}


def get(client, path):
    """Return the answer to a request, whose file is closed."""
    return client.get(path, buffered=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file.txt").write_text("static")
    return tmp_path


class Site:
    """An app with static files, and a client that has a session."""

    def __init__(self, folder, *, at_the_root=False, **options):
        self.store = SpyStore()
        url = "" if at_the_root else "/static"
        self.app = Flask(__name__, static_folder=folder, static_url_path=url)
        self.app.secret_key = SECRET
        self.roomkey = Roomkey(self.app, store=self.store, **options)
        shop = Blueprint("shop", __name__, static_folder=folder, static_url_path="/static", url_prefix="/shop")
        self.app.register_blueprint(shop)

        @self.app.get("/count")
        def count():
            return str(session.change("n", lambda n: n + 1, default=0))

        @self.app.get("/static/page")
        def page():
            return str(session["n"])

        @self.app.get("/nothing")
        def nothing():
            return ""

    def visitor(self):
        """Return a client that has a session. The app takes no more routes and functions."""
        client = self.app.test_client()
        get(client, "/count")
        self.store.events.clear()
        return client


@pytest.fixture(params=URLS)
def site_and_url(request, folder):
    return Site(folder, at_the_root=request.param == "at the root"), URLS[request.param]


def test_nothing_is_loaded(site_and_url):
    """The store is not touched, also by the answer that there is no such file."""
    site, url = site_and_url
    client = site.visitor()
    for path, status in ((url, 200), (url, 200), (url + "x", 404)):
        answer = get(client, path)
        assert answer.status_code == status
        assert "Vary" not in answer.headers and "Set-Cookie" not in answer.headers
    assert site.store.events == []
    assert get(client, "/count").text == "2" and "load" in site.store.events


def test_a_store_that_is_down(site_and_url):
    """Static files are served, and views are not, whether they use the session or not."""
    site, url = site_and_url
    client = site.visitor()
    site.store.failing = {"load"}
    assert get(client, url).text == "static"
    for path in ("/count", "/nothing", "/static/page"):
        assert get(client, path).status_code == 503, path


def test_a_route_below_the_static_path(folder):
    """It has its session as any other."""
    client = Site(folder).visitor()
    assert get(client, "/static/page").text == "1"


USES = {
    "read": lambda: session.get("n"),
    "contains": lambda: "n" in session,
    "length": lambda: len(session),
    "dict": lambda: dict(session),
    "bool": lambda: bool(session),
    "equality": lambda: session == {"n": 1},
    "attribute": lambda: session.handle,
    "permanent": lambda: session.permanent,
    "peek": lambda: session.peek("n"),
}


@pytest.mark.parametrize("use", USES)
def test_what_uses_the_session_finds_it(site_and_url, use):
    """A `before_request` function asks for it on each request."""
    site, url = site_and_url
    seen = []
    site.app.before_request(lambda: seen.append((USES[use](), dict(session))) and None)
    client = site.visitor()
    seen.clear()
    assert get(client, url).text == "static"
    get(client, "/nothing")
    assert seen[0] == seen[1] and seen[0][1] == {"n": 1}
    assert site.store.events.count("load") == 2


def test_what_is_put_in_is_saved(site_and_url):
    """As on any other request, also what is put in by attribute, or is the first."""
    site, url = site_and_url

    @site.app.before_request
    def note():
        session["seen"] = flask.request.path
        session.permanent = True

    client = site.visitor()
    answer = get(client, url)
    assert answer.text == "static" and answer.headers["Vary"] == "Cookie"
    with client.session_transaction() as stored:
        assert dict(stored) == {"n": 1, "seen": url, "_permanent": True}
    assert "Set-Cookie" in get(site.app.test_client(), url).headers


def test_a_use_while_the_store_is_down(site_and_url):
    """It is a 503, as everywhere."""
    site, url = site_and_url
    site.app.before_request(lambda: session.get("n") and None)
    client = site.visitor()
    site.store.failing = {"load"}
    answer = get(client, url)
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
    site.store.failing = set()
    assert get(client, url).status_code == 200


def test_it_is_a_session_before_and_after(site_and_url):
    """Nothing that looks at its type is surprised, and what shows it loads nothing."""
    site, url = site_and_url
    shown = []

    @site.app.before_request
    def look():
        found = session._get_current_object()
        shown.append((isinstance(found, FlaskSession), isinstance(found, dict), repr(found)))

    client = site.visitor()
    get(client, url)
    assert shown[-1] == (True, True, "FlaskSession(not loaded)") and site.store.events == []


def test_excluded_paths_refuse_there_too(folder):
    """`exclude` says that nobody uses the session."""
    site = Site(folder, exclude=["/static/"])
    failed = []

    @site.app.before_request
    def use():
        if flask.request.path.startswith("/static/"):
            try:
                session.get("n")
            except Exception as error:
                failed.append(str(error))

    client = site.visitor()
    assert get(client, URLS["of the app"]).text == "static"
    assert len(failed) == 1 and failed[0].startswith("exclude: it has '/static/'")


def test_with_vary_always(folder):
    """Each response says it, static files too."""
    client = Site(folder, vary="always").visitor()
    assert get(client, URLS["of the app"]).headers["Vary"] == "Cookie"
