"""`roomkey doctor` on a Django project, for WSGI and for ASGI, as a command."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.doctor_apps import ENOUGH
from tests.loop_clock import HANGS

SOURCES = Path(__file__).parents[1] / "src"

_SETTINGS = """
SECRET_KEY = {key!r}
SESSION_ENGINE = "roomkey.django"
ROOMKEY = {{"store": "sqlite:///sessions.sqlite3"}}
SESSION_COOKIE_NAME, SESSION_COOKIE_SECURE = "__Host-session", True
SESSION, CSRF = "roomkey.django.SessionMiddleware", "django.middleware.csrf.CsrfViewMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", SESSION, CSRF, AUTH]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "roomkey.django"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}}}
ROOT_URLCONF = "mysite.urls"
ALLOWED_HOSTS = [".shop.example"]
USE_TZ = True
"""
_URLS = """
from django.http import HttpResponse
from django.urls import include, path, re_path
from django.views import View

def index(request):
    request.session["n"] = 1
    return HttpResponse("")

async def status(request):
    return HttpResponse(str(await request.session.aget("n")))

class Change(View):
    def post(self, request):
        return HttpResponse("")

urlpatterns = [
    path("", index),
    path("api/", include([path("status", status), path("ping", lambda request: HttpResponse(""))])),
    path("item/<int:number>", index),
    re_path("^old/status$", index),
    path("change", Change.as_view()),
]
"""
_APPLICATION = """
import os
from django.core.{0} import get_{0}_application
os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
application = get_{0}_application()
"""
# What Channels has, as far as its own class shows it.
_CHANNELS = (
    _APPLICATION.format("asgi")
    + """
class ProtocolTypeRouter:
    def __init__(self, application_mapping):
        self.application_mapping = application_mapping

    async def __call__(self, scope, receive, send):
        return await self.application_mapping[scope["type"]](scope, receive, send)

application = ProtocolTypeRouter({"http": application})
"""
)
_QUIET = 'ROOMKEY["passive"] = ["/api/status"]\n'


def _doctor(folder: Path, settings: str = _QUIET, *args: str, name: str = "mysite.wsgi:application") -> tuple[int, Any]:
    """Make a project, and look at it. Returns the exit code, and the report or what was said instead."""
    site = folder / "mysite"
    site.mkdir(exist_ok=True)
    files = {
        "__init__": "",
        "settings": _SETTINGS.format(key=ENOUGH) + settings,
        "urls": _URLS,
        "wsgi": _APPLICATION.format("wsgi"),
        "asgi": _APPLICATION.format("asgi"),
        "channels": _CHANNELS,
    }
    for stem, text in files.items():
        (site / f"{stem}.py").write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "roomkey", "doctor", name, *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    return run.returncode, json.loads(run.stdout) if run.stdout else run.stderr


def _names(report: Any) -> list[str]:
    return [each["name"] for each in report["findings"]]


@pytest.mark.parametrize("module", ["wsgi", "asgi", "channels"])
def test_a_project_without_a_fault(module: str, tmp_path: Path) -> None:
    """Nothing is found, nothing is left unlooked at, and no session stays behind. The host is one that it answers."""
    name = f"mysite.{module}:application"
    expected = {"app": name, "findings": [], "not_checked": [], "ignored": []}
    assert _doctor(tmp_path, name=name) == (0, expected)
    with closing(sqlite3.connect(tmp_path / "sessions.sqlite3")) as file:
        assert file.execute("SELECT count(*) FROM session").fetchone() == (0,)


@pytest.mark.parametrize("module", ["wsgi", "asgi"])
def test_a_project_with_faults(module: str, tmp_path: Path) -> None:
    """The faults of any app are found. Settings have the names that they have in Django."""
    faults = """
SECRET_KEY = "short"
SESSION_COOKIE_NAME, SESSION_COOKIE_SECURE = "sessionid", False
ROOMKEY = {"store": "memory://", "user_key": None, "https_only": False, "passive": ["/api/status"]}
MIDDLEWARE.remove(CSRF)
"""
    code, report = _doctor(tmp_path, faults, name=f"mysite.{module}:application")
    expected = ["key-weak", "cookie-not-secure", "cookie-no-prefix", "csrf-off", "user-key-none", "store-forgets"]
    assert code == 1 and _names(report) == expected
    fixes = {each["name"]: each["fix"] for each in report["findings"]}
    assert "SESSION_COOKIE_SECURE=True" in fixes["cookie-not-secure"]
    assert "CsrfViewMiddleware" in fixes["csrf-off"] and "SECRET_KEY" in fixes["key-weak"]


def test_a_key_of_each_process(tmp_path: Path) -> None:
    """A key is found that each process makes for itself."""
    _, report = _doctor(tmp_path, _QUIET + "import secrets\nSECRET_KEY = secrets.token_urlsafe(32)\n")
    assert _names(report) == ["key-per-process"]


def test_a_view_that_is_polled(tmp_path: Path) -> None:
    """A view that is named like a poll and uses the session is found, also below an `include`."""
    _, report = _doctor(tmp_path, "")
    assert [each["wrong"].partition(" uses")[0] for each in report["findings"]] == ["GET /api/status"]


def test_a_middleware_that_comes_too_early(tmp_path: Path) -> None:
    """A middleware that needs the session is found outside of the session's."""
    early = "MIDDLEWARE = ['mysite.settings.AuthLog', SESSION, CSRF, AUTH]\n" + _QUIET
    early += "class AuthLog:\n    def __init__(self, then):\n        self.then = then\n"
    early += "    def __call__(self, request):\n        return self.then(request)\n"
    _, report = _doctor(tmp_path, early)
    assert _names(report) == ["middleware-order"] and "MIDDLEWARE" in report["findings"][0]["fix"]


def test_djangos_own_middleware(tmp_path: Path) -> None:
    """What `manage.py check` says is in the report."""
    own = _QUIET + "MIDDLEWARE[1] = 'django.contrib.sessions.middleware.SessionMiddleware'\n"
    _, report = _doctor(tmp_path, own)
    assert _names(report) == ["roomkey-warned"] and "roomkey.django.SessionMiddleware" in report["findings"][0]["wrong"]


@pytest.mark.parametrize(
    ("settings", "name", "says"),
    [
        ("SESSION_ENGINE = 'django.contrib.sessions.backends.file'\nMIDDLEWARE.remove(SESSION)\n", "", "no Roomkey"),
        ("ROOMKEY = {'max_agee': 5}\n", "", "max_agee"),
        ("", "mysite.settings", "mysite.wsgi:application"),
    ],
)
def test_a_project_that_cannot_be_looked_at(settings: str, name: str, says: str, tmp_path: Path) -> None:
    """What is wrong is said in a line, and the exit code is 2."""
    code, said = _doctor(tmp_path, settings, name=name or "mysite.wsgi:application")
    assert code == 2 and says in said and "Traceback" not in said
