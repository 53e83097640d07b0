"""The app of one recipe of docs/howto-starlette.md, with pages that show its session and log in beside it.

`RECIPE` names the recipe's module, which is in the working folder. uvicorn serves `tests.starlette_site:app`.
"""

import importlib
import os

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

site = importlib.import_module(os.environ["RECIPE"])  # which installs Roomkey
app = site.app


async def show(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.session))


async def enter(request: Request) -> JSONResponse:
    request.session["user_id"] = request.path_params["name"]
    return JSONResponse({})


async def leave(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


app.router.routes[:0] = [
    Route("/session", show),
    Route("/enter/{name}", enter, methods=["POST"]),
    Route("/leave", leave, methods=["POST"]),
]

if site.__name__ == "fasthtml_app":

    @app.ws("/chat")
    async def chat(session, send):
        await send(f"Hello {session.get('user_id', 'stranger')}")


if site.__name__ == "gradio_app":
    import gradio
    import gradio.oauth

    # Gradio asks Hugging Face who runs the app, and offers that account to log in with.
    gradio.oauth.get_token = lambda: "token"
    gradio.oauth.whoami = lambda: {"type": "user", "fullname": "Grace", "name": "grace", "avatarUrl": "/grace.png"}

    def who(profile: gradio.OAuthProfile | None) -> str:
        return "nobody" if profile is None else profile.username

    with gradio.Blocks() as hub:
        gradio.LoginButton()
        hub.load(who, None, gradio.Markdown(), api_name="who")
    gradio.mount_gradio_app(app, hub, "/hub")
