"""A browser for each test of the folder."""

import pytest

from tests.stores.in_cookies.browser import Browser


@pytest.fixture
def browser():
    return Browser()
