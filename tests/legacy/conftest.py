"""A Redis server for the readers that need one, and Django's settings."""

import django
import pytest
from django.conf import settings as django_settings

from roomkey.legacy import redis as redis_readers
from tests.legacy.cookies import OTHER

HALF_AN_HOUR = 1800  # seconds: less than the old libraries keep an entry in these tests


@pytest.fixture(scope="module", autouse=True)
def _django():
    if not django_settings.configured:
        django_settings.configure(
            SECRET_KEY=OTHER, SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies", USE_TZ=True
        )
        django.setup()


@pytest.fixture(scope="module")
def redis_url():
    from tests.servers.redis import RedisServer

    with RedisServer() as server:
        yield server.url


@pytest.fixture
def leaves(monkeypatch):
    """Let servers keep what a reader has forgotten for half an hour: after its 10 seconds a slow test finds it gone.

    Returns whether an entry with so many seconds left is one that a reader has forgotten.
    """
    assert redis_readers._LEAVE == 10
    monkeypatch.setattr(redis_readers, "_LEAVE", HALF_AN_HOUR)
    return lambda seconds: 0 < seconds <= HALF_AN_HOUR
