"""Django's sessions in `cached_db`: Redis before SQLite."""

import os
from importlib import import_module
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks.probes import deeds

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["PROBE_REDIS"]}
    },
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(os.environ["PROBE_FOLDER"], "django.sqlite3"),
            # So that 20 writers wait for each other and none fails, as Django's documentation says for SQLite.
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 60},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # nobody has a password here
    ROOT_URLCONF=__name__,
    SECRET_KEY="k" * 50,
    SESSION_COOKIE_NAME="session",
    SESSION_ENGINE="django.contrib.sessions.backends.cached_db",
)
django.setup()
call_command("migrate", verbosity=0)

from django.contrib.auth import get_user_model, login, logout  # noqa: E402 - they need the settings
from django.contrib.sessions.models import Session  # noqa: E402


def page(request: HttpRequest, deed: str, name: str) -> JsonResponse:
    session: Any = request.session
    match deed:
        case "about":
            return JsonResponse({"login": "`login()`", "list": "reading every session"})
        case "slow":
            session.get("user_id")
            deeds.wait_blocking()
            session[name] = 1
        case "enter":
            user, _ = get_user_model().objects.get_or_create(username=name)
            login(request, user)
            session["user_id"] = name
        case "logout":
            logout(request)
        case "list":
            return JsonResponse({"sessions": len(_keys(name))})
        case "end":
            store = import_module(settings.SESSION_ENGINE).SessionStore
            for key in _keys(name):
                store(key).delete()
            return JsonResponse({})
        case _:
            return JsonResponse(deeds.act(session, deed, name))
    return JsonResponse(deeds.shown(session))


def _keys(user: str) -> list[str]:
    """Return the keys of a user's sessions. The table has no user: each session is decoded."""
    return [each.session_key for each in Session.objects.all() if each.get_decoded().get("user_id") == user]


urlpatterns = [path("<deed>/<name>", page)]
app = get_wsgi_application()
