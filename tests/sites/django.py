"""The story's site on Django."""

import json
import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

from tests import sites

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["roomkey.django.SessionMiddleware"],
    ROOMKEY={
        "store": os.environ["ROOMKEY_STORE"],
        "store_timeout": float(os.environ["ROOMKEY_STORE_TIMEOUT"]),
        "user_key": "user_id",
        "clear_site_data": json.loads(os.environ["ROOMKEY_CLEAR_SITE_DATA"]),
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ["ROOMKEY_SECRET_KEY"],
    SESSION_COOKIE_NAME="session",
    SESSION_ENGINE="roomkey.django",
)
django.setup()


def slow(request, name):
    user = request.session["user_id"]
    sites.reach_blocking(name)
    request.session["late"] = user
    return JsonResponse(sites.seen(request.session))


def act(request, deed, name):
    return JsonResponse(sites.act(request.session, deed, name))


urlpatterns = [path("slow/<name>", slow), path("<deed>/<name>", act)]
app, asgi_app = get_wsgi_application(), get_asgi_application()
