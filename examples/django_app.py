"""A to-do list on Django, in one file: visitors keep one without an account, and take it along when they log in.

    pip install "roomkey[django]"
    python -m examples.django_app migrate
    python -m examples.django_app runserver

It takes its settings from the environment: DJANGO_SECRET_KEY, DJANGO_DATABASE (a file) and ROOMKEY_STORE.
With gunicorn it is `examples.django_app:application`. A real project has these settings in `settings.py`.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import django
from django.conf import settings

PAGE = """<!doctype html>
<title>To do</title>
{% for text in messages %}<p>{{ text }}</p>{% endfor %}
<p>{{ request.user.username|default:"Nobody" }} is logged in, on {{ devices }} device(s).</p>
<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>
<form method="post" action="/add">{% csrf_token %}
<label>To do <input name="item" required></label> <button>Add</button></form>
{% if request.user.is_authenticated %}
<form method="post" action="/logout">{% csrf_token %}<button>Log out</button></form>
<form method="post" action="/logout-elsewhere">{% csrf_token %}<button>Log out elsewhere</button></form>
{% else %}
<form method="post" action="/login">{% csrf_token %}
<label>Name <input name="username" required></label>
<label>Password <input name="password" type="password" required></label>
<label><input type="checkbox" name="stay"> Stay logged in</label> <button>Log in</button>
</form>
{% endif %}
"""

if not settings.configured:
    settings.configure(
        # Without a key in the environment, sessions end when the app does: for development.
        SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_urlsafe(32),
        SESSION_ENGINE="roomkey.django",
        SESSION_EXPIRE_AT_BROWSER_CLOSE=True,
        ROOMKEY={"store": os.environ.get("ROOMKEY_STORE", "sqlite:///sessions.sqlite3")},
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "roomkey.django.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "roomkey.django",
        ],
        ALLOWED_HOSTS=["localhost", "127.0.0.1", "testserver"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.environ.get("DJANGO_DATABASE", Path("django.sqlite3")),
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        ROOT_URLCONF="examples.django_app",
        STATIC_URL="static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
    )
    django.setup()

# These need the settings.
from django.contrib import admin, messages  # noqa: E402
from django.contrib.auth import authenticate, login, logout  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.core.management import execute_from_command_line  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.shortcuts import redirect  # noqa: E402
from django.template import engines  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402

from roomkey.django import get_manager  # noqa: E402

A_MONTH = 30 * 24 * 60 * 60  # seconds


def index(request: HttpRequest) -> HttpResponse:
    sessions = get_manager().sync.sessions
    devices = len(sessions.of(request.user.pk)) if request.user.is_authenticated else 0
    context = {"items": request.session.get("items_to_do", []), "devices": devices}
    return HttpResponse(engines["django"].from_string(PAGE).render(context, request))


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    item = request.POST["item"]
    # Nothing is lost where another tab adds something at the same moment.
    request.session.change("items_to_do", lambda items: [*items, item], default=[])
    return redirect("/")


@require_POST
def log_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        messages.error(request, "Wrong name or password.")
        return redirect("/")
    login(request, user)  # the session gets a new ID
    if "stay" in request.POST:
        request.session.set_expiry(A_MONTH)
    messages.success(request, f"Welcome, {user.get_username()}.")
    return redirect("/")


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect("/")


@require_POST
@login_required(login_url="/")
def log_out_elsewhere(request: HttpRequest) -> HttpResponse:
    get_manager().sync.sessions.revoke_all(request.user.pk, keep=request.session)
    return redirect("/")


urlpatterns = [
    path("", index),
    path("add", add),
    path("login", log_in),
    path("logout", log_out),
    path("logout-elsewhere", log_out_elsewhere),
    path("admin/", admin.site.urls),
]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
