"""What the tests of `roomkey.django` share: clients with a cookie, and a view for one test."""

from django.test import Client, override_settings
from django.urls import path

from tests import django_site

__all__ = ["asking", "content", "cookie", "routes"]


def cookie(client):
    found = client.cookies.get("sessionid")
    return found.value if found else None


def asking(card):
    """Return a client that has this cookie."""
    client = Client()
    client.cookies["sessionid"] = card
    return client


def content(card):
    return asking(card).get("/").json()


class routes:  # it reads like a function
    """Within it, `/view` is served by this view."""

    def __init__(self, view):
        self._route = path("view", view)
        self._override = override_settings(ROOT_URLCONF=(*django_site.urlpatterns, self._route))

    def __enter__(self):
        self._override.enable()

    def __exit__(self, *error):
        self._override.disable()
