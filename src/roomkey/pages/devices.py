"""DevicesPage: the sessions of the user who looks at it."""

from __future__ import annotations

from roomkey.core.session import Session
from roomkey.options import named_options
from roomkey.pages.page import Form, Page, query_of
from roomkey.pages.rendering import Answer
from roomkey.web.asgi import Scope
from roomkey.wire.about import LONGEST_LABEL

__all__ = ["DevicesPage"]


@named_options()
class DevicesPage(Page):
    """A page with the devices on which a user is logged in. The user ends one of them, or all others,
    and gives them names.

    It is an ASGI app, to be mounted below a `SessionMiddleware`. Which device and from where is known with
    `record_client=True`. The page needs no script. Its forms carry a token of `roomkey.csrf`.

    Args:
        manager: the app's `SessionManager`, or its `SessionConfig`.
        recent: seconds (or a `timedelta`) since the log-in within which sessions may be ended or named. After that the
            page shows them, and asks for a log-in (OWASP ASVS 7.5.2). None: at any time.
        log_in_url: where to log in, a path or an address, for people who have to. `{next}` in it stands for the
            address of this page: `"/login?next={next}"`. None: the page has no link.
        home_url: where the link "Back" leads. None: there is none.
        templates: a folder with templates that replace Roomkey's: `base.html`, `devices.html`, `notice.html`,
            `styles.css`. They may extend Roomkey's as `roomkey/devices.html` and so on.
        language: a catalogue's, such as `"de"`. None: what the browser asks for, or else English. English and German
            are there.
        words: by language, texts that add a catalogue or replace texts of one. Their keys are those of
            `roomkey.pages.words.en`.

    Raises:
        ConfigurationError: an option is wrong, or the store cannot list a user's sessions. By a request: no
            `SessionMiddleware` is around the page.

    Example:
        >>> from roomkey import SessionManager
        >>> from roomkey.pages import DevicesPage
        >>> manager = SessionManager(secret_key="k" * 32, store="memory://", record_client=True)
        >>> page = DevicesPage(manager, recent=300, log_in_url="/login?next={next}")
    """

    template = "devices.html"

    async def _refusal(self, scope: Scope, session: Session) -> Answer | None:
        if self._user_of(session) is not None:
            return None
        link = self._log_in_link(scope)
        text = self._texts(scope).say("log_in")
        return self._notice(scope, "anonymous", 401, None if link is None else (text, link))

    async def _show(self, scope: Scope, session: Session, *, status: int = 200) -> Answer:
        rows = self._rows(scope, await session.sessions.of(self._user_of(session)))
        return self._page(
            scope,
            session,
            status=status,
            query=query_of(scope),
            current=[row for row in rows if row.info.is_current],
            others=[row for row in rows if not row.info.is_current],
        )

    async def _act(self, scope: Scope, session: Session, form: Form) -> str:
        user = self._user_of(session)
        if "all" in form:
            return f"done=all&count={await session.sessions.revoke_all(user, keep=session)}"
        if "name" in form:
            label = form.get("label", "")[:LONGEST_LABEL]
            named = await session.sessions.label(form["name"], label, user=user)
            return "done=named" if named else "done=gone"
        ended = await session.sessions.revoke(form.get("end", ""), user=user)
        return "done=one" if ended else "done=gone"
