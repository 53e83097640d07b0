"""What frameworks look like to a middleware. `roomkey.<framework>` modules mend the frameworks themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from roomkey.core.session import Session
from roomkey.web.asgi import Scope

__all__ = [
    "FRAMEWORKS",
    "Framework",
    "is_answer",
    "is_foreign",
    "is_route",
    "missing_module",
    "request_class_of",
    "route_of",
]

_DEEPEST = 20  # apps within apps that are looked at


def _never(*_: Any) -> bool:
    return False


class Framework(NamedTuple):
    """How to recognise what one framework, or one library for it, does."""

    name: str
    # Whether an exception is a response that the app made, and that the framework sends outside every middleware.
    is_answer: Callable[[Exception], bool] = _never
    # Whether what stands in `scope["session"]` is known to be another middleware's session.
    is_foreign: Callable[[Scope, object], bool] = _never
    # Whether an app is one route of the framework's, so that it makes a middleware for each route.
    is_route: Callable[[object], bool] = _never
    package: str = ""  # where its apps come from
    requests: str = ""  # the module with its class `Request`, where its apps have `exception_handlers`
    module: str = ""  # of Roomkey's, which has `request.session` and its kin mean Roomkey's session


def _is_http_exception(error: Exception) -> bool:
    """Every framework has a class of this name. Starlette's, where it comes out of a middleware, is a plain error."""
    kinds = [kind for kind in type(error).__mro__ if kind.__name__ == "HTTPException"]
    return bool(kinds) and hasattr(error, "headers") and not kinds[-1].__module__.startswith("starlette.")


def _is_litestars_route(app: object) -> bool:
    return any(kind.__module__.startswith("litestar.routes.") for kind in type(app).__mro__)


FRAMEWORKS = [
    Framework("Roomkey, in a mounted app", is_foreign=lambda _, content: issubclass(type(content), Session)),
    Framework(
        "Starlette",
        is_foreign=lambda _, content: type(content).__name__ == "Session",
        package="starlette",
        requests="starlette.requests",
    ),
    Framework("starsessions", is_foreign=lambda scope, _: "session_handler" in scope),
    Framework(
        "Litestar",
        is_route=_is_litestars_route,
        package="litestar",
        requests="litestar.connection",
        module="roomkey.litestar",
    ),
    Framework("Lilya", package="lilya", requests="lilya.requests", module="roomkey.lilya"),
    Framework(
        "Ravyn", package="ravyn", requests="ravyn.requests", module="roomkey.lilya"
    ),  # which `roomkey.ravyn` imports
    Framework("Ravyn, Litestar", is_answer=_is_http_exception),
]


def is_answer(error: Exception) -> bool:
    """Whether an exception is a response that the app made."""
    return any(framework.is_answer(error) for framework in FRAMEWORKS)


def is_foreign(scope: Scope, content: object) -> bool:
    """Whether what stands in `scope["session"]` is known to be another middleware's session."""
    return any(framework.is_foreign(scope, content) for framework in FRAMEWORKS)


def is_route(app: object) -> bool:
    """Whether an app is one route of a framework that makes its middleware anew for each route."""
    return any(framework.is_route(each) for each in _apps_in(app) for framework in FRAMEWORKS)


def missing_module(app: object) -> str | None:
    """Return the module of Roomkey's that an app's framework needs and that was not imported; None: there is none."""
    packages = set(map(_package_of, _apps_in(app)))
    for framework in FRAMEWORKS:
        if framework.module and framework.package in packages and framework.module not in sys.modules:
            return framework.module
    return None


_PACKAGES = {framework.package for framework in FRAMEWORKS if framework.module}


def _package_of(app: object) -> str:
    return type(app).__module__.partition(".")[0]


def _apps_in(app: object) -> Iterator[object]:
    """Return an app and what it wraps, from outside to inside."""
    for _ in range(_DEEPEST):
        if app is None:
            return
        try:
            app = getattr(app, "__self__", app)  # the method of a route, say
            inner = getattr(app, "app", None)
        except Exception:  # a proxy, say, which stands for nothing yet
            return
        yield app
        if inner is None and _package_of(app) not in _PACKAGES:  # a middleware that has another name for it
            inner = next((value for value in getattr(app, "__dict__", {}).values() if callable(value)), None)
        app = inner


def request_class_of(app: object) -> Callable[..., Any] | None:
    """Return what makes a request of a scope, in the framework of an app; None: it is none that is known here."""
    packages = {kind.__module__.partition(".")[0] for kind in type(app).__mro__}
    for framework in reversed(FRAMEWORKS):  # Ravyn's apps are Lilya's too
        if framework.requests and framework.package in packages:
            found: Callable[..., Any] | None = getattr(sys.modules.get(framework.requests), "Request", None)
            return found
    return None


def route_of(scope: Scope) -> str | None:
    """Return a name of the route that answered, the same for each of its requests; None: nobody says.

    Never the path itself, which may hold anything: the token of a password reset, say.
    """
    for key in ("route_path_template", "path_template"):  # Lilya and Ravyn, Litestar
        template = scope.get(key)
        if isinstance(template, str):
            return template
    endpoint = scope.get("endpoint") or scope.get("handler")  # Starlette and FastAPI, Lilya
    name = getattr(endpoint, "__qualname__", None)
    return f"{endpoint.__module__}.{name}" if isinstance(name, str) else None
