"""Looks at an app as `roomkey doctor` does: it is imported, started and asked, and so is its store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from roomkey.cli.asking import Asked, ask, ask_wsgi
from roomkey.cli.checks.looked import Answer, Looked, Pair, Public, StoreLook
from roomkey.cli.finding import imported, made_by
from roomkey.cli.fresh import fingerprints, from_processes
from roomkey.cli.projects import host_of, is_project, project_of, warnings_of
from roomkey.cli.public import ask_site, site_of
from roomkey.cli.routes import polled_by_name, routes_of
from roomkey.cli.running import is_wsgi, running
from roomkey.cli.sampling import look_at_store
from roomkey.errors import ConfigurationError, WeakSecretWarning
from roomkey.manager import SessionManager, managers
from roomkey.paths import Paths
from roomkey.stores.base import shown

__all__ = ["look"]

_PROCESSES = 2  # in which the app is imported anew
_MOST_POLLS = 20  # routes that are asked
_REDIRECTS = (301, 302, 303, 307, 308)

_Ask = Callable[[Asked], Awaitable[Answer]]
_Step = Callable[[str], None]


def look(
    name: str,
    paths: Sequence[str] = ("/",),
    url: str | None = None,
    *,
    in_processes: bool = True,
    step: _Step = lambda what: None,
) -> Looked:
    """Look at an app and its store.

    Args:
        name: `module:app`, or `module:make_app` with a function that makes it.
        paths: which the requests are made to.
        url: of the running site; None: it is not asked.
        in_processes: whether to import the app in two fresh processes too.
        step: is called with what comes next.

    Raises:
        ConfigurationError: there is no such app, it has no session manager, it does not start, or the site does not
            answer.
    """
    site = None if url is None else site_of(url)
    salt, theirs = "", list[tuple[str, ...]]()
    if in_processes:
        step("Importing the app in two fresh processes")
        salt, theirs = from_processes(name, _PROCESSES)
    step("Starting the app")
    modules = set(sys.modules)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), _listening() as heard:
        warnings.simplefilter("ignore", WeakSecretWarning)  # a check tells
        before = set(map(id, managers()))
        app = project_of(imported(name))
        patient = _Looking(app, before, paths, site, step)
        seen = patient.in_wsgi() if is_wsgi(app) else asyncio.run(patient.in_loop())
        checked = list(warnings_of()) if is_project(app) else []
    keys = [fingerprints(seen.managers, salt), *theirs]
    why = "the app cannot be imported in a process of its own" if len(theirs) < _PROCESSES else ""
    return replace(
        seen,
        fingerprints=tuple(keys),
        no_fingerprints=why if in_processes else "",
        stores=tuple(_with_warnings(each, heard) for each in seen.stores),
        imports_tokens=_imports_tokens(set(sys.modules) - modules),
        said=tuple(dict.fromkeys([record.getMessage() for record in heard if not _is_of_store(record)] + checked)),
    )


class _Looking:
    """At one app."""

    def __init__(
        self, app: Any, before: set[int], paths: Sequence[str], site: tuple[str, str, str] | None, step: _Step
    ) -> None:
        self._app, self._before, self._paths, self._site, self._step = app, before, paths, site, step
        self._routes, self._knows_routes = routes_of(app)
        extensions = getattr(app, "extensions", None)
        self._extensions = frozenset(extensions) if isinstance(extensions, dict) else frozenset()

    # --- an app that is served in this event loop -------------------------------------------------------------------

    async def in_loop(self) -> Looked:
        """Start an ASGI app, and look at it while it runs. Raises ConfigurationError."""
        async with running(self._app) as run:

            async def asks(asked: Asked) -> Answer:
                answer = await ask(self._app, asked, run.state)
                for manager in self._made():
                    await _end_begun(manager, answer)
                return answer

            seen = {"no_answers": "the app does not start"} if run.error is not None else await self._asked(asks)
            found = self._managers(run.error)  # a mounted app may make its own with the first request
            stores = [await look_at_store(manager) for manager in _with_own_store(found)]
            if run.error is not None and not any(each.not_ready or each.silent or each.near_refused for each in stores):
                raise ConfigurationError(f"the app does not start: {run.error}") from run.error
            for manager in found:  # there may be no lifespan that does it
                await manager.registry.store.close()
            return self._looked("quart" if hasattr(self._app, "asgi_app") else "asgi", found, stores, seen)

    # --- an app that is served in a thread --------------------------------------------------------------------------

    def in_wsgi(self) -> Looked:
        """Look at a WSGI app. Its stores are asked where the app asks them: in the managers' own threads."""

        async def asks(asked: Asked) -> Answer:
            answer = ask_wsgi(self._app, asked)
            for manager in self._made():
                manager.sync.run(_end_begun(manager, answer))
            return answer

        # Nothing in it waits, so that the app runs in this thread and in no event loop.
        seen = _run_at_once(self._asked(asks))
        found = self._managers(None)
        stores = [manager.sync.run(look_at_store(manager)) for manager in _with_own_store(found)]
        for manager in found:
            manager.sync.close()
        return self._looked("django" if is_project(self._app) else "flask", found, stores, seen)

    # --- both -------------------------------------------------------------------------------------------------------

    def _made(self) -> list[SessionManager]:
        return made_by(self._app, self._before)

    def _managers(self, error: Exception | None) -> list[SessionManager]:
        found = self._made()
        if not found and error is not None:
            raise ConfigurationError(f"the app does not start: {error}") from error
        if not found:
            raise ConfigurationError("the app has no Roomkey sessions, as far as its start and its answers show")
        return sorted(found, key=lambda manager: manager.config.session_cookie)

    def _looked(
        self,
        framework: Literal["asgi", "django", "flask", "quart"],
        found: list[SessionManager],
        stores: list[StoreLook],
        seen: dict[str, Any],
    ) -> Looked:
        return Looked(
            framework=framework,
            managers=tuple(found),
            stores=tuple(stores),
            routes=self._routes,
            knows_routes=self._knows_routes,
            extensions=self._extensions,
            **seen,
        )

    async def _asked(self, asks: _Ask) -> dict[str, Any]:
        """Make the requests. Returns fields of `Looked`."""
        self._step("Sending requests to the app")
        host = {"host": host_of()} if is_project(self._app) else {}
        if self._site is not None:
            host = {"scheme": self._site[0], "host": self._site[1]}
        answers = [await asks(Asked("GET", path, {"sec-fetch-site": "none"}, **host)) for path in self._paths]
        polls = [
            await asks(Asked("GET", path, {"sec-fetch-site": "same-origin"}, **host))
            for path in polled_by_name(self._routes)[:_MOST_POLLS]
            if not any(_is_passive(manager, path) for manager in self._made())
        ]
        nowhere = f"/roomkey-doctor-{secrets.token_hex(8)}"
        cross = {"sec-fetch-site": "cross-site", "origin": "https://cross-site.invalid"}
        return {
            "answers": tuple(answers),
            "polls": tuple(polls),
            "cross_site": await asks(Asked("POST", nowhere, cross, **host)),
            "same_site": await asks(Asked("POST", nowhere, {"sec-fetch-site": "same-origin"}, **host)),
            "public": None if self._site is None else await self._compared(answers, asks, nowhere),
        }

    async def _compared(self, answers: list[Answer], asks: _Ask, nowhere: str) -> Public:
        """Make the same requests to the running site."""
        assert self._site is not None
        self._step("Sending requests to the running site")
        scheme, host, below = self._site
        pairs = []
        redirect = await self._redirect(asks, scheme, host)
        for here in [*answers, *redirect]:
            asked = Asked("GET", here.path, {"sec-fetch-site": "none"}, scheme=scheme, host=host)
            pairs.append(Pair(here, ask_site(asked, below)))
        plain = Asked("POST", nowhere, scheme=scheme, host=host)
        own = Asked("POST", nowhere, {"origin": f"{scheme}://{host}"}, scheme=scheme, host=host)
        same_origin = Pair(await asks(own), ask_site(own, below))
        return Public(scheme, host, tuple(pairs), same_origin, ask_site(plain, below))

    async def _redirect(self, asks: _Ask, scheme: str, host: str) -> list[Answer]:
        """Return an answer that redirects to the app's own host: most frameworks mend a slash too many or too few."""
        paths = {route.path for route in self._routes if "GET" in route.methods}
        for path in sorted(each for each in paths if "{" not in each and "<" not in each and each != "/")[:_MOST_POLLS]:
            other = path[:-1] if path.endswith("/") else f"{path}/"
            if other not in paths:
                answer = await asks(Asked("GET", other, {"sec-fetch-site": "none"}, scheme=scheme, host=host))
                if answer.status in _REDIRECTS and "://" in (answer.header("location") or ""):
                    return [answer]
        return []


def _with_own_store(found: list[SessionManager]) -> list[SessionManager]:
    """Return one manager for each store."""
    return list({id(manager.config.store): manager for manager in reversed(found)}.values())


def _imports_tokens(names: set[str]) -> bool:
    """Whether one of these modules, which came with the app, imports `verify_csrf_token`."""
    found = [getattr(sys.modules.get(name), "__dict__", {}) for name in names if not name.startswith("roomkey.")]
    return any(getattr(each.get("verify_csrf_token"), "__module__", "") == "roomkey.csrf" for each in found)


def _is_passive(manager: SessionManager, path: str) -> bool:
    scope = {"path": path, "root_path": ""}
    return any(Paths(tuple(paths)).match(scope) for paths in (manager.config.passive, manager.config.exclude))


async def _end_begun(manager: SessionManager, answer: Answer) -> None:
    """End the session that a request of ours began, so that none stays behind."""
    if manager.config.card_header is not None or not answer.cookies:
        return
    sent = "; ".join(cookie.partition(";")[0] for cookie in answer.cookies)
    with contextlib.suppress(Exception):  # of a custom store, say: another check tells
        session = await manager.load(sent)
        if session:
            session.clear()
            await manager.commit(session)


def _run_at_once(work: Any) -> dict[str, Any]:
    """Run what never waits, without an event loop."""
    try:
        work.send(None)
    except StopIteration as stop:
        seen: dict[str, Any] = stop.value
        return seen
    raise AssertionError("it waits")


# --- what Roomkey says meanwhile ------------------------------------------------------------------------------------

_log = logging.getLogger("roomkey")


class _Ears(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Outages are what `StoreLook` tells, and cross-site requests are made here.
        if record.levelno == logging.WARNING and not str(record.msg).startswith("answered 403 "):
            self.heard.append(record)


@contextlib.contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """Collect the warnings of Roomkey's log. They go nowhere else meanwhile: the checks tell."""
    ears, propagates = _Ears(), _log.propagate
    _log.addHandler(ears)
    _log.propagate = False
    try:
        yield ears.heard
    finally:
        _log.removeHandler(ears)
        _log.propagate = propagates


def _is_of_store(record: logging.LogRecord) -> bool:
    return str(record.msg).startswith("session store ")


def _with_warnings(look: StoreLook, heard: list[logging.LogRecord]) -> StoreLook:
    """Add what a store said when it was opened: `session store WHICH: WHAT`."""
    store = shown(look.manager.config.store)  # type: ignore[arg-type]  # or the cookie's, which says nothing
    theirs = [record.args for record in heard if record.msg == "session store %s: %s"]
    said = [str(args[1]) for args in theirs if isinstance(args, tuple) and str(args[0]) in store]
    return look._replace(warnings=tuple(dict.fromkeys(said)))
