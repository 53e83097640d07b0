"""Pages made of templates: with the headers that every page has, and a policy that allows them no script."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

try:
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
except ImportError as _error:
    raise ImportError("roomkey.pages needs Jinja2: pip install 'roomkey[pages]'") from _error

from roomkey.errors import ConfigurationError
from roomkey.pages.words import Catalogue, Words
from roomkey.web.asgi import Scope, Send

__all__ = ["Answer", "Rendering", "plain", "see_other"]

_OWN = Path(__file__).parent / "templates"
_STYLES = "styles.css"


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send, *, has_body: bool) -> None:
        """Send it. `has_body`: False for HEAD."""
        headers = [(b"cache-control", b"no-store"), (b"content-length", b"%d" % len(self.body)), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body if has_body else b""})


def plain(status: int, text: str, *headers: tuple[bytes, bytes]) -> Answer:
    """Return an answer that is no page."""
    return Answer(status, text.encode(), ((b"content-type", b"text/plain; charset=utf-8"), *headers))


def see_other(query: str) -> Answer:
    """Return the answer to a form: to the same page, with a query. It is relative, and so right below any mount."""
    return Answer(303, b"", ((b"location", f"?{query}".encode()),))


class Rendering:
    """The templates, styles and texts of one page.

    Args:
        templates: a folder with templates, or a `styles.css`, that count in the place of Roomkey's of the same name;
            None: there is none. Roomkey's own are also called `roomkey/devices.html` and so on, to be extended.
        language: as for `Words`.
        words: as for `Words`.

    Raises:
        ConfigurationError: there is no such folder, or `Words` raises it.
    """

    def __init__(
        self,
        templates: str | os.PathLike[str] | None,
        language: str | None,
        words: Mapping[str, Mapping[str, str]] | None,
    ) -> None:
        own = FileSystemLoader(_OWN)
        loaders = [own, PrefixLoader({"roomkey": own})]
        if templates is not None:
            if not isinstance(templates, str | os.PathLike) or not os.path.isdir(templates):
                raise ConfigurationError(f"templates: got {templates!r}; it takes a folder that is there")
            loaders.insert(0, FileSystemLoader(templates))
        self._words = Words(language, words or {})
        self._jinja = Environment(
            loader=ChoiceLoader(loaders),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        styles = self._jinja.get_template(_STYLES).render()
        self._jinja.globals["styles"] = styles
        # The styles stand in the page, so that no address below the mount is needed. 'self' is for an app's own.
        allowed = base64.b64encode(hashlib.sha256(styles.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; style-src 'self' 'sha256-{allowed}'; img-src 'self'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
        self._headers = (
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),  # not no-referrer: browsers then send no Origin with a form either
        )

    def catalogue(self, scope: Scope) -> Catalogue:
        """Return the texts for a request."""
        accepted = b",".join(value for name, value in scope["headers"] if name == b"accept-language")
        return self._words.for_browser(accepted.decode("latin-1"))

    def page(self, scope: Scope, template: str, *, status: int = 200, **values: object) -> Answer:
        """Return a page.

        Args:
            scope: of the request: the browser says which language it wants.
            template: its file's name.
            status: of the response.
            values: what the template gets, beside the texts.
        """
        texts = self.catalogue(scope)
        page = self._jinja.get_template(template).render(
            language=texts.language,
            say=texts.say,
            moment=texts.moment,
            hour=texts.hour,
            ago=texts.ago,
            span=texts.span,
            **values,
        )
        headers = (*self._headers, (b"content-language", texts.language.encode("latin-1", "ignore")))
        return Answer(status, page.encode(), headers)
