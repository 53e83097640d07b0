"""Litestar with `RoomkeyPlugin`: what has the card is a cookie, which is `Secure` over HTTPS, or a header."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from litestar import Litestar, get, post
from litestar.security.session_auth import SessionAuth
from litestar.testing import TestClient

from roomkey import ConfigurationError, Session
from roomkey.litestar import FromSession, from_session
from roomkey.testing import client_session
from tests.litestar_site import STORY, plugin

HEADERS = {"Authorization": "session-card", "X-Auth-Token": "x-auth-token"}  # what a request has, and a response


@pytest.fixture(params=HEADERS)
def header(request):
    return request.param


def site(roomkey, *handlers, scheme="http", **options):
    app = Litestar([*STORY, *handlers], plugins=[roomkey], **options)
    return TestClient(app, base_url=f"{scheme}://testserver.local", session_config=roomkey.backend_config)


@pytest.mark.parametrize(
    ("option", "scheme", "expected"),
    [("auto", "http", False), ("auto", "https", True), (True, "http", True), (False, "https", False)],
)
def test_whether_the_cookie_is_secure(option, scheme, expected):
    """By default the request says it. The log-out's cookie is like the log-in's."""
    with site(plugin(https_only=option), scheme=scheme) as client:
        line = client.post("/login/7").headers["set-cookie"]
        assert ("; Secure" in line) is expected
        if scheme == "https" or not expected:  # else the client keeps it to itself
            assert ("; Secure" in client.post("/logout").headers["set-cookie"]) is expected


def test_litestars_client_over_https():
    """What `set_session_data` has put is there for the next request, and a card that was given as Secure stays so."""
    with site(plugin(), scheme="https") as client:
        client.post("/login/7")
        client.set_session_data({"user_id": 8})
        (cookie,) = client.cookies.jar
        assert cookie.secure and client.get("/").json() == {"user_id": 8}


def test_a_card_in_a_header(header):
    """The plugin's sessions travel in it, and a test logs its client in."""
    roomkey = plugin(card_header=header)
    with site(roomkey) as client:
        answer = client.post("/login/7")
        assert "set-cookie" not in answer.headers and HEADERS[header] in answer.headers
        assert client.get("/").json() == {}
        with client_session(client, roomkey.manager) as session:
            session["user_id"] = 8
        assert client.get("/").json() == {"user_id": 8}
        assert client.post("/logout").headers[HEADERS[header]] == ""


def test_litestars_own_methods_and_a_header(header):
    """Its test client keeps cookies only: the error says what to take."""
    with site(plugin(card_header=header)) as client:
        with pytest.raises(ConfigurationError, match=r"take roomkey\.testing\.client_session"):
            client.set_session_data({"user_id": 8})
        with pytest.raises(ConfigurationError, match=r"take roomkey\.testing\.client_session"):
            client.get_session_data()


@pytest.mark.parametrize("has_auth", [False, True])
def test_the_document_and_a_header(header, has_auth):
    """It has a bearer token, or an API key in the header, also where `SessionAuth` brings the scheme of a cookie."""

    async def user_of(session: dict[str, Any], connection: Any) -> Any:
        return session.get("user_id")

    roomkey = plugin(card_header=header)
    auth = SessionAuth[Any, Any](retrieve_user_handler=user_of, session_backend_config=roomkey.backend_config)
    options = {"on_app_init": [auth.on_app_init]} if has_auth else {}
    with site(roomkey, **options) as client:
        document = client.app.openapi_schema.to_schema()
    scheme = document["components"]["securitySchemes"]["sessionCookie"]
    scheme = {key: value for key, value in scheme.items() if key != "description"}
    expected = {"type": "apiKey", "in": "header", "name": "x-auth-token"}
    assert scheme == ({"type": "http", "scheme": "bearer"} if header == "Authorization" else expected)


@dataclass
class Visit:
    cart: list[str] = field(default_factory=list)
    user_id: int | None = None


@post("/cart/{item:str}", dependencies={"visit": from_session(Visit)})
async def add(item: str, visit: Annotated[Visit, FromSession()], session: Session) -> dict[str, Any]:
    visit.cart = [*visit.cart, item]
    return session


@get("/mine", dependencies={"visit": from_session(Visit)})
async def mine(visit: Annotated[Visit, FromSession()]) -> list[Any]:
    return [visit.user_id, visit.cart]


def test_a_typed_session_beside_the_plugins_dependency():
    """Both are the one session: what a field was given is in the session, and is there for the next request."""
    roomkey = plugin()
    with site(roomkey, add, mine) as client:
        client.set_session_data({"user_id": 7})
        assert client.post("/cart/tea").json() == {"user_id": 7, "cart": ["tea"]}
        assert client.post("/cart/jam").json() == {"user_id": 7, "cart": ["tea", "jam"]}
        assert client.get("/mine").json() == [7, ["tea", "jam"]]
