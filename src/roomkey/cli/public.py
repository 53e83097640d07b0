"""Requests to the running site, past whatever stands before it."""

from __future__ import annotations

import http.client
import ssl
from urllib.parse import urlsplit

from roomkey.cli.asking import Asked
from roomkey.cli.checks.looked import Answer
from roomkey.errors import ConfigurationError

__all__ = ["ask_site", "site_of"]

_PATIENCE = 10.0  # seconds for one answer


def site_of(url: str) -> tuple[str, str, str]:
    """Return scheme, host (with a port, where the URL has one) and the path below which the site is.

    Raises:
        ConfigurationError: it is no URL of a site.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigurationError("--url: it takes the URL of the running site, such as https://shop.example")
    return parts.scheme, parts.netloc, parts.path.rstrip("/")


def ask_site(asked: Asked, below: str = "") -> Answer:
    """Make a request to the running site. Redirects are not followed.

    Args:
        asked: the request.
        below: the path below which the site is.

    Raises:
        ConfigurationError: it does not answer.
    """
    host, port = asked.server
    connection: http.client.HTTPConnection
    if asked.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    try:
        connection.request(asked.method, below + asked.target, headers=asked.headers)
        answer = connection.getresponse()
        headers = tuple((name.lower(), value) for name, value in answer.getheaders())
        return Answer(asked.method, asked.target, answer.status, headers)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigurationError(
            f"--url: {asked.scheme}://{asked.host} does not answer ({type(error).__name__}: {error})"
        ) from error
    finally:
        connection.close()
