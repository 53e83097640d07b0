"""A Redis server for the readers that need one, and Django's settings."""

import django
import pytest
from django.conf import settings as django_settings

from tests.legacy.cookies import OTHER


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
