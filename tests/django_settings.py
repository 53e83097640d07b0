"""Django's settings for the tests of this process: to import this is to configure Django.

There can be one configuration only, and all tests share it. By itself it keeps sessions in signed cookies.
`override_settings(**HERE)` is for the tests of `roomkey.django`.

Processes that tests start are told in the environment where their database is, and have `HERE` from the beginning.
"""

import os
import tempfile
from pathlib import Path

import django
from django.conf import settings

from tests.loop_clock import HANGS
from tests.manager.parts import SECRET

__all__ = ["FOLDER", "HERE", "MIDDLEWARE", "settings"]

APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.admin",
    "roomkey.django",
]
MIDDLEWARE = [
    "roomkey.django.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
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
]
# What the tests of `roomkey.django` have beside the shared settings.
HERE = {
    "SECRET_KEY": SECRET,
    "SESSION_ENGINE": "roomkey.django",
    "MIDDLEWARE": MIDDLEWARE,
    "ROOT_URLCONF": "tests.django_site",
}
_temporary = tempfile.TemporaryDirectory()
FOLDER = Path(os.environ.get("DJANGO_SITE_FOLDER", _temporary.name))
SHARED = {"SECRET_KEY": "no test means this", "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}

settings.configure(
    **(HERE if "DJANGO_SITE_FOLDER" in os.environ else SHARED),
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": FOLDER / "db.sqlite3",
            "OPTIONS": {"timeout": HANGS, "transaction_mode": "IMMEDIATE"},
        }
    },
    INSTALLED_APPS=APPS,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOMKEY={"store": os.environ.get("DJANGO_SITE_STORE", "memory://"), "store_timeout": HANGS},
    STATIC_URL="static/",
    TEMPLATES=TEMPLATES,
    USE_TZ=True,
)
django.setup()
