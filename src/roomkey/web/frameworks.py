"""What frameworks look like to a middleware. `roomkey.<framework>` modules add their own to the list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from roomkey.core.session import Session
from roomkey.web.asgi import Scope

__all__ = ["FRAMEWORKS", "Framework", "clears", "is_answer", "is_foreign"]


def _never(*_: Any) -> bool:
    return False


class Framework(NamedTuple):
    """How to recognise what one framework, or one library for it, does."""

    name: str
    # Whether an exception is a response that the app made, and that the framework sends outside every middleware.
    is_answer: Callable[[Exception], bool] = _never
    # Whether what stands in `scope["session"]` is another middleware's session, and not new content for this one.
    is_foreign: Callable[[Scope, object], bool] = _never
    # Whether what stands in `scope["session"]` says that the session was cleared.
    clears: Callable[[object], bool] = _never


def _is_http_exception(error: Exception) -> bool:
    """Every framework has a class of this name. Starlette's, where it comes out of a middleware, is a plain error."""
    kinds = [kind for kind in type(error).__mro__ if kind.__name__ == "HTTPException"]
    return bool(kinds) and hasattr(error, "headers") and not kinds[-1].__module__.startswith("starlette.")


FRAMEWORKS = [
    Framework("Roomkey, in a mounted app", is_foreign=lambda _, content: isinstance(content, Session)),
    Framework("Starlette", is_foreign=lambda _, content: type(content).__name__ == "Session"),
    Framework("starsessions", is_foreign=lambda scope, _: "session_handler" in scope),
    Framework("Litestar", clears=lambda content: type(content).__name__ == "_EmptyEnum"),
    Framework("Ravyn, Litestar", is_answer=_is_http_exception),
]


def is_answer(error: Exception) -> bool:
    """Whether an exception is a response that the app made."""
    return any(framework.is_answer(error) for framework in FRAMEWORKS)


def is_foreign(scope: Scope, content: object) -> bool:
    """Whether what stands in `scope["session"]` is another middleware's session."""
    return any(framework.is_foreign(scope, content) for framework in FRAMEWORKS)


def clears(content: object) -> bool:
    """Whether what stands in `scope["session"]` says that the session was cleared."""
    return any(framework.clears(content) for framework in FRAMEWORKS)
