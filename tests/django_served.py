"""The Django site on real servers, in processes of its own. `tests.django_settings` says how it is configured.

`wsgi` is for gunicorn. `asgi` is for uvicorn and daphne, with WebSockets by Channels.
`python -m tests.django_served` is `manage.py`.
"""

import json
import sys

from tests import django_settings  # isort: skip  # before everything of Django's that reads settings

from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import SessionMiddlewareStack
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.urls import path

from roomkey.django import get_manager

__all__ = ["asgi", "django_settings", "wsgi"]


class Chat(AsyncWebsocketConsumer):
    """Says who is there, and takes keys to write into the session."""

    async def connect(self):
        await self.accept()
        name = self.scope["user"].get_username() or "nobody"
        await self.send(json.dumps([name, await self.scope["session"].aget("n")]))

    async def receive(self, text_data=None, bytes_data=None):
        session = self.scope["session"]
        await session.aset(text_data, 1)
        try:
            await session.asave()
        except Exception as error:
            await self.send(json.dumps(type(error).__name__))
        else:
            await self.send(json.dumps(sorted(dict(await session.aitems()))))


class BlockingChat(WebsocketConsumer):
    """The same with blocking calls, and without Django's users."""

    def connect(self):
        self.accept()
        self.send(json.dumps(self.scope["session"].get("n")))

    def receive(self, text_data=None, bytes_data=None):
        session = self.scope["session"]
        session[text_data] = 1
        session.save()
        self.send(json.dumps(sorted(dict(session.items()))))


wsgi = get_wsgi_application()
asgi = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [
                path("chat", AuthMiddlewareStack(Chat.as_asgi())),
                path("blocking", SessionMiddlewareStack(BlockingChat.as_asgi())),
            ]
        ),
    }
)
get_manager().sync.load(None)  # a store that is used while the app is loaded, before the workers are forked

if __name__ == "__main__":
    execute_from_command_line(["manage.py", *sys.argv[1:]])
