"""`card_header` on FastAPI: what the guards ask for, and what the OpenAPI document says."""

from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from roomkey import SessionManager
from roomkey.fastapi import CurrentSession, SessionConfig, SessionMiddleware, require_login, require_recent
from roomkey.testing import Clock

SECRET = "a secret that is long enough for every test here"
HEADERS = {"Authorization": "session-card", "X-Auth-Token": "x-auth-token"}  # what a request has, and a response


def sent(header, card):
    return {header: f"Bearer {card}" if header == "Authorization" else card}


@pytest.fixture(params=HEADERS)
def header(request):
    return request.param


def fastapi_app(clock=None, **options):
    app = FastAPI()
    options = {"secret_key": SECRET, "store": "memory://", **options, **({"clock": clock} if clock else {})}
    app.add_middleware(SessionMiddleware, **options)
    add_routes(app)
    return app


def add_routes(app):
    @app.get("/login")
    async def log_in(session: CurrentSession) -> None:
        session["user_id"] = 7

    @app.get("/me")
    async def me(user: Annotated[int, Depends(require_login)]) -> int:
        return user

    @app.get("/danger", dependencies=[Depends(require_recent(300))])
    async def danger() -> None: ...


CHALLENGES = {"Authorization": 'Bearer realm="session"', "X-Auth-Token": 'Header header-name="x-auth-token"'}


def test_a_guards_challenge(header):
    """A 401 asks for a bearer token, or names the header. A 403 says with it that the log-in is too long ago."""
    clock = Clock()
    client = TestClient(fastapi_app(clock, card_header=header))
    answer = client.get("/me")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, CHALLENGES[header])
    card = sent(header, client.get("/login").headers[HEADERS[header]])
    assert client.get("/me", headers=card).json() == 7
    clock.advance(301)
    answer = client.get("/danger", headers=card)
    challenge = f'{CHALLENGES[header]}, error="insufficient_user_authentication", max_age="300"'
    assert (answer.status_code, answer.headers["www-authenticate"]) == (403, challenge)


@pytest.mark.parametrize("how", ["options", "config", "manager"])
def test_the_document(header, how):
    """It asks for a bearer token, or an API key in the header, in the place of the cookie, each time it is asked."""
    config = SessionConfig(secret_key=SECRET, store="memory://", card_header=header)
    given = {"config": config, "manager": SessionManager(config)}.get(how)
    app = fastapi_app(card_header=header)
    if given is not None:
        app = FastAPI()
        app.add_middleware(SessionMiddleware, config=given)
        add_routes(app)
    for _ in range(2):
        document = app.openapi()
        (scheme,) = document["components"]["securitySchemes"].values()
        scheme = {key: value for key, value in scheme.items() if key != "description"}
        expected = {"type": "apiKey", "in": "header", "name": "x-auth-token"}
        assert scheme == ({"type": "http", "scheme": "bearer"} if header == "Authorization" else expected)
        needs = {path: each["get"].get("security") for path, each in document["paths"].items()}
        assert needs == {"/login": None, "/me": [{"SessionCard": []}], "/danger": [{"SessionCard": []}]}
    assert list(fastapi_app().openapi()["components"]["securitySchemes"]) == ["SessionCookie"]
