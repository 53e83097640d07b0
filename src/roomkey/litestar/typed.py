"""Typed sessions by Litestar's dependency injection.

Example:
    >>> from dataclasses import dataclass, field
    >>> from typing import Annotated
    >>> from litestar import Litestar, post
    >>> from roomkey.litestar import FromSession, from_session
    >>> @dataclass
    ... class Visit:
    ...     cart: list[str] = field(default_factory=list)
    >>> @post("/cart/{item:str}", dependencies={"visit": from_session(Visit)})
    ... async def add(item: str, visit: Annotated[Visit, FromSession()]) -> list[str]:
    ...     visit.cart.append(item)
    ...     return visit.cart
"""

# No `from __future__ import annotations`: Litestar evaluates those of a dependency.

from dataclasses import dataclass
from typing import Any

from litestar.di import Provide
from litestar.params import DependencyKwarg
from litestar.types import Scope

from roomkey.shapes.views import check_shape, typed
from roomkey.web.connections import session_of

__all__ = ["FromSession", "from_session"]


@dataclass(frozen=True)
class FromSession(DependencyKwarg):
    """Marks an argument that `from_session` provides: `visit: Annotated[Visit, FromSession()]`.

    Litestar hands it over as it is. Without the mark, it would make a copy.
    """

    skip_validation: bool = True

    def __post_init__(self) -> None:
        """Say nothing. Litestar (2.23) warns of this way, and earlier versions have no other."""


def from_session(shape: type) -> Provide:
    """Return what gives a handler the session, seen through a shape: `dependencies={"visit": from_session(Visit)}`.

    It works in the handlers of HTTP and of WebSockets. `roomkey.typed` says what they get.

    Args:
        shape: a dataclass, a msgspec Struct, a TypedDict or a pydantic model.

    Raises:
        ConfigurationError: the class is no shape, or a field of it has no default. In a request: it went through no
            `SessionMiddleware`.
    """
    check_shape(shape)

    def view(scope: Scope) -> Any:
        return typed(session_of(scope), shape)

    return Provide(view, sync_to_thread=False)
