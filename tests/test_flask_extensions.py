"""Flask's best known extensions on Roomkey's sessions: Flask-Login, Flask-WTF and flash messages."""

import re
from datetime import timedelta

import flask
import pytest
from flask import flash, get_flashed_messages

from roomkey import ConfigurationError
from roomkey.flask import Roomkey, session
from roomkey.testing import Clock
from tests.manager.parts import SECRET, WaitingStore

flask_login = pytest.importorskip("flask_login")
flask_wtf = pytest.importorskip("flask_wtf")


class Ann(flask_login.UserMixin):
    id = "ann"


def make_app(order="roomkey first", **options):
    """Return an app with Flask-Login, its `Roomkey` and a browser."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    logins = flask_login.LoginManager()
    if order == "roomkey last":
        logins.init_app(app)
    roomkey = Roomkey(app, **{"store": WaitingStore()} | options)
    if order == "roomkey first":
        logins.init_app(app)

    @logins.user_loader
    def load(name):
        return Ann() if name == "ann" else None

    @app.get("/login")
    def log_in():
        flask_login.login_user(Ann(), remember="remember" in flask.request.args)
        return ""

    @app.get("/logout")
    def log_out():
        flask_login.logout_user()
        return ""

    @app.get("/who")
    def who():
        return str(flask_login.current_user.get_id())

    @app.get("/cart")
    def cart():
        session["cart"] = ["bell"]
        return ""

    @app.get("/secret")
    @flask_login.fresh_login_required
    def secret():
        return "secret"

    return app, roomkey, app.test_client()


def card(client):
    found = client.get_cookie("session")
    return found and found.value


def who_has(app, value):
    client = app.test_client()
    client.set_cookie("session", value)
    return client.get("/who").text


@pytest.mark.parametrize("order", ["roomkey first", "roomkey last"])
def test_a_log_in_changes_the_id_and_files_the_session(order):
    """The anonymous visitor's cart comes along, the old cookie is dead, and the user's sessions are listed."""
    app, roomkey, client = make_app(order)
    client.get("/cart")
    before = card(client)
    client.get("/login")
    assert card(client) != before and client.get("/who").text == "ann" and client.get("/secret").text == "secret"
    assert who_has(app, before) == "None"
    assert [info.user for info in roomkey.manager.sync.sessions.of("ann")] == ["ann"]
    with client.session_transaction() as mine:
        assert mine["cart"] == ["bell"]


def test_a_log_out_is_final():
    """The ID changes, the copied cookie is refused, and the session is nobody's."""
    app, roomkey, client = make_app()
    client.get("/cart")
    client.get("/login")
    copied = card(client)
    client.get("/logout")
    assert client.get("/who").text == "None" and who_has(app, copied) == "None"
    assert roomkey.manager.sync.sessions.of("ann") == []


def test_revoking_logs_out():
    """For Flask-Login too."""
    _, roomkey, client = make_app()
    client.get("/login")
    roomkey.manager.sync.sessions.revoke_all("ann")
    assert client.get("/who").text == "None"


def test_flask_logins_own_cookie_logs_in_again():
    """Once the session has ended, its remember cookie makes a new one, which is not fresh."""
    clock = Clock()
    app, _, client = make_app(clock=clock, max_age=100)
    app.config["REMEMBER_COOKIE_DURATION"] = timedelta(days=1)
    client.get("/login?remember=1")
    before = card(client)
    clock.advance(101)
    assert client.get("/who").text == "ann" and card(client) != before
    assert client.get("/secret").status_code == 401


def test_a_user_key_of_the_apps_own():
    """It is taken as it is given, also None."""
    _, roomkey, client = make_app(user_key="member")
    assert roomkey.manager.config.user_key == "member"
    client.get("/cart")
    before = card(client)
    client.get("/login")
    assert card(client) == before
    assert make_app(user_key=None)[1].manager.config.user_key is None


def test_flask_login_after_the_manager():
    """The manager would not know of it, and a log-in would keep the ID: this is an error, and not silence."""
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    roomkey = Roomkey(app, store="memory://")
    assert roomkey.manager.config.user_key == "user_id"
    flask_login.LoginManager(app)
    app.add_url_rule("/", view_func=lambda: "")
    app.testing = True
    with pytest.raises(ConfigurationError, match="user_key"):
        app.test_client().get("/")


def test_strong_protection_of_flask_logins():
    """A cookie that comes from elsewhere is logged out, and its session with it."""
    app, _, client = make_app()
    app.config["SESSION_PROTECTION"] = "strong"
    client.get("/login")
    assert client.get("/who", headers={"User-Agent": "another"}).text == "None"
    assert client.get("/who").text == "None"


def test_a_user_who_confirms_the_log_in():
    """Flask-Login's `confirm_login` keeps the user, so the app says that the ID is to change."""
    app, _, client = make_app()

    @app.get("/confirm")
    def confirm():
        flask_login.confirm_login()
        session.reauthenticated()
        return ""

    client.get("/login")
    before = card(client)
    client.get("/confirm")
    assert card(client) != before and client.get("/who").text == "ann" and who_has(app, before) == "None"


# --- Flask-WTF --------------------------------------------------------------------------------------------------------


def test_tokens_of_flask_wtf():
    """The token that a page got is good for its session, also after a log-in, and for no other."""
    app, _, client = make_app()
    flask_wtf.CSRFProtect(app)
    app.add_url_rule("/token", view_func=flask_wtf.csrf.generate_csrf)
    app.add_url_rule("/post", view_func=lambda: "done", methods=["POST"])
    answer = client.get("/token")
    token = answer.text
    assert "session=" in answer.headers["Set-Cookie"]
    assert client.post("/post", data={"csrf_token": token}).text == "done"
    assert client.post("/post", data={"csrf_token": token[:-1]}).status_code == 400
    client.get("/login")
    assert client.post("/post", data={"csrf_token": token}).text == "done"
    other = app.test_client()
    other.get("/token")
    assert other.post("/post", data={"csrf_token": token}).status_code == 400


def test_a_form_of_flask_wtf():
    """It renders its token, and validates with it."""
    wtforms = pytest.importorskip("wtforms")
    app, _, client = make_app()

    class Form(flask_wtf.FlaskForm):
        item = wtforms.StringField()

    @app.route("/form", methods=["GET", "POST"])
    def form():
        form = Form()
        return f"got {form.item.data}" if form.validate_on_submit() else str(form.hidden_tag())

    token = re.search('value="(.+?)"', client.get("/form").text)[1]
    assert client.post("/form", data={"item": "bell", "csrf_token": token}).text == "got bell"
    assert "got" not in app.test_client().post("/form", data={"item": "bell", "csrf_token": token}).text


# --- flash messages ---------------------------------------------------------------------------------------------------


def test_flash_messages():
    """Flask's are shown once, with their category. Roomkey's are shown by Flask, and Flask's by Roomkey."""
    app, roomkey, client = make_app()

    @app.get("/leave")
    def leave():
        flash("first", "error")
        flash("second")
        session.flash("third")
        return ""

    @app.get("/show")
    def show():
        return get_flashed_messages(with_categories=True)

    @app.get("/take")
    def take():
        return roomkey.manager.sync.flashes(session)

    expected = [["error", "first"], ["message", "second"], ["info", "third"]]
    for path in ("/show", "/take"):
        client.get("/leave")
        assert client.get(path).json == expected
        assert client.get("/show").json == []
