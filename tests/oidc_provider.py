"""A small OpenID provider: the code flow with PKCE, for one client and one user, who is logged in and agrees to all."""

import asyncio
import base64
import hashlib
import secrets
import time

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

__all__ = ["CLIENT", "CLIENT_SECRET", "app"]

CLIENT, CLIENT_SECRET = "shop", "the secret of the client under test"
KEY = RSAKey.generate_key(2048, {"kid": "1", "alg": "RS256", "use": "sig"})

codes: dict[str, dict[str, str]] = {}  # what was asked, by the code that answers it; each serves once
meeting: list[asyncio.Barrier] = []  # where requests wait for each other


async def metadata(request):
    await _meet()
    issuer = str(request.base_url).rstrip("/")
    return JSONResponse(
        {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }
    )


async def authorize(request):
    """Send the user back with a code."""
    asked = dict(request.query_params)
    assert asked["client_id"] == CLIENT and asked["response_type"] == "code" and asked["nonce"]
    assert asked["code_challenge_method"] == "S256"
    code = secrets.token_urlsafe()
    codes[code] = asked
    return RedirectResponse(URL(asked["redirect_uri"]).include_query_params(code=code, state=asked["state"]))


async def token(request):
    """Give an ID token for a code."""
    await _meet()
    form = await request.form()
    name, _, secret = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    if (name, secret) != (CLIENT, CLIENT_SECRET):
        return JSONResponse({"error": "invalid_client"}, 401)
    asked = codes.pop(form["code"], None)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    if asked is None or asked["redirect_uri"] != form["redirect_uri"] or asked["code_challenge"] != challenge:
        return JSONResponse({"error": "invalid_grant"}, 400)
    now = int(time.time())
    claims = {"iss": str(request.base_url).rstrip("/"), "sub": "ann", "aud": CLIENT, "nonce": asked["nonce"]}
    signed = jwt.encode({"alg": "RS256", "kid": "1"}, {**claims, "iat": now, "exp": now + 60}, KEY)
    return JSONResponse({"access_token": secrets.token_urlsafe(), "token_type": "Bearer", "id_token": signed})


async def jwks(request):
    return JSONResponse(KeySet([KEY]).as_dict(private=False))


async def meet(request):
    """Let the next two requests of the client wait for each other."""
    meeting[:] = [asyncio.Barrier(2)]
    return Response()


async def _meet():
    if meeting:
        barrier = meeting[0]
        await barrier.wait()
        meeting.clear()


app = Starlette(
    routes=[
        Route("/.well-known/openid-configuration", metadata),
        Route("/authorize", authorize),
        Route("/token", token, methods=["POST"]),
        Route("/jwks", jwks),
        Route("/meet", meet),
    ]
)
