"""Django's settings for the tests of this process: to import this is to configure Django.

There can be one configuration only, and all tests share it. By itself it keeps sessions in signed cookies.
`override_settings(**HERE)` is for the tests of `roomkey.django`.
"""

import tempfile
from pathlib import Path

import django
from django.conf import settings

from tests.manager.parts import SECRET

__all__ = ["APPS", "HERE", "MIDDLEWARE", "TEMPLATES"]

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
_folder = tempfile.TemporaryDirectory()

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(_folder.name, "db.sqlite3")}},
    INSTALLED_APPS=APPS,
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    SECRET_KEY="the key that no test means",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    STATIC_URL="static/",
    TEMPLATES=TEMPLATES,
    USE_TZ=True,
)
django.setup()
