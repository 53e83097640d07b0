"""`card_header` on Flask and Quart."""

import asyncio

import pytest

from roomkey import ConfigurationError
from tests.flask_site import make_app as make_flask_app
from tests.test_quart import make_app as make_quart_app

HEADERS = {"Authorization": "session-card", "X-Auth-Token": "x-auth-token"}  # what a request has, and a response


def sent(header, card):
    return {header: f"Bearer {card}" if header == "Authorization" else card}


@pytest.fixture(params=HEADERS)
def header(request):
    return request.param


def test_on_flask(header):
    """`flask.session` travels in the header, and Flask's cookie settings are not asked."""
    app, _ = make_flask_app(settings={"APPLICATION_ROOT": "/api"}, card_header=header)
    client = app.test_client()
    assert HEADERS[header] not in client.get("/").headers
    answer = client.get("/count")
    assert "Set-Cookie" not in answer.headers and answer.headers["Cache-Control"] == "no-store"
    before = sent(header, answer.headers[HEADERS[header]])
    card = sent(header, client.get("/login/ann", headers=before).headers[HEADERS[header]])
    answer = client.get("/", headers=card)
    assert answer.json == {"n": 1, "user_id": "ann"} and answer.headers["Vary"] == header
    assert HEADERS[header] not in answer.headers and client.get("/", headers=before).json == {}
    answer = client.get("/logout", headers=card)
    assert answer.headers[HEADERS[header]] == "" and "Set-Cookie" not in answer.headers
    assert client.get("/", headers=card).json == {}


def test_several_headers_on_flask(header):
    """A WSGI server joins them into one, which is no card."""
    app, roomkey = make_flask_app(card_header=header)
    card = app.test_client().get("/login/ann").headers[HEADERS[header]]
    value = sent(header, card)[header]
    assert app.test_client().get("/", headers={header: f"{value},{value}"}).json == {}
    assert roomkey.manager.refused == {"card": 1}


def test_on_quart(header):
    """The same on Quart."""
    app, _ = make_quart_app(card_header=header)

    async def story():
        client = app.test_client()
        answer = await client.get("/login/ann")
        assert "Set-Cookie" not in answer.headers and answer.headers["Cache-Control"] == "no-store"
        card = sent(header, answer.headers[HEADERS[header]])
        answer = await client.get("/", headers=card)
        assert await answer.get_json() == {"user_id": "ann"} and answer.headers["Vary"] == header
        answer = await client.get("/logout", headers=card)
        assert answer.headers[HEADERS[header]] == ""
        return await (await client.get("/", headers=card)).get_json()

    assert asyncio.run(story()) == {}


@pytest.mark.parametrize("make", [make_flask_app, make_quart_app], ids=["flask", "quart"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("SESSION_COOKIE_NAME", "sid"), ("SESSION_COOKIE_SECURE", True), ("SESSION_COOKIE_PATH", "/api")],
)
def test_a_cookie_setting_beside_the_header(make, setting, value):
    """A setting about cookies that the app has made is an error that names it."""
    with pytest.raises(ConfigurationError, match=f"^{setting} is wrong: .* card_header='X-Auth-Token' neither reads"):
        make(settings={setting: value}, card_header="X-Auth-Token")


def test_a_transaction_of_flasks_test_client(header):
    """It may look at a session whose card it is given, and change it. One that needs a new card is an error."""
    app, _ = make_flask_app(card_header=header)
    client = app.test_client()
    with pytest.raises(ConfigurationError, match=r"^session_transaction: .* keeps no card"):  # noqa: SIM117
        with client.session_transaction() as session:
            session["user_id"] = "ann"
    card = sent(header, client.get("/login/ann").headers[HEADERS[header]])
    with client.session_transaction(headers=card) as session:
        session["theme"] = "dark"
    assert client.get("/", headers=card).json == {"user_id": "ann", "theme": "dark"}


def test_a_transaction_of_quarts_test_client(header):
    """The same on Quart."""
    app, _ = make_quart_app(card_header=header)

    async def log_in():
        async with app.test_client().session_transaction() as session:
            session["user_id"] = "ann"

    with pytest.raises(ConfigurationError, match=r"^session_transaction: .* keeps no card"):
        asyncio.run(log_in())
