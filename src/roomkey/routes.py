"""Requests whose path says that they get no session (`exclude`), keep none alive (`passive`), or get it from the store
(`fresh`)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from roomkey.core.session import Session
from roomkey.errors import ConfigurationError
from roomkey.paths import Paths

if TYPE_CHECKING:
    from roomkey.config import SessionConfig
    from roomkey.core.loader import Loader

__all__ = ["Begin", "by_path", "members_for"]

Begin = Callable[[list[tuple[bytes, bytes]], Mapping[str, Any]], Session | Coroutine[Any, Any, Session]]

# What is a use of a session, beside everything that has no underscore before it.
_USES = (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__", "__iter__", "__reversed__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__or__", "__ror__", "__ior__"),
    *("__str__", "__copy__", "__deepcopy__"),
)


def by_path(begin: Begin, loader: Loader, config: SessionConfig, begin_fresh: Begin | None = None) -> Begin:
    """Return what begins requests. Where no paths are told apart, it is `begin` itself.

    Args:
        begin: loads the session of a request.
        loader: opens the transactions of the sessions that `begin` loads.
        config: says which paths are told apart.
        begin_fresh: as `begin`, from the store in any case; None: `begin` does that.
    """
    told_apart = config.fresh if config.near_cache is not None and begin_fresh is not None else ()
    if not (config.exclude or config.passive or told_apart):
        return begin
    exclude, passive, fresh = Paths(tuple(config.exclude)), Paths(tuple(config.passive)), Paths(tuple(told_apart))
    excluded = {path: _refusing(loader.session_class, path) for path in config.exclude}

    async def renewing_nothing(answer: Coroutine[Any, Any, Session]) -> Session:
        return _renew_nothing(await answer, loader)

    def begin_by_path(
        headers: list[tuple[bytes, bytes]], scope: Mapping[str, Any]
    ) -> Session | Coroutine[Any, Any, Session]:
        path = exclude.match(scope)
        if path is not None:
            session = excluded[path]()
            session._origin = loader
            return session
        answer = (begin if begin_fresh is None or fresh.match(scope) is None else begin_fresh)(headers, scope)
        if passive.match(scope) is None:
            return answer
        return _renew_nothing(answer, loader) if isinstance(answer, Session) else renewing_nothing(answer)

    return begin_by_path


def _renew_nothing(session: Session, loader: Loader) -> Session:
    loader.transaction_of(session).renews = False
    return session


def members_for(
    session_class: type[Session], use: Callable[[str], Callable[..., Any]], attribute: Callable[[str], property]
) -> dict[str, Any]:
    """Return the members of a class of sessions that does something else with each use of the session.

    Args:
        session_class: what handlers get elsewhere.
        use: returns the method of this name.
        attribute: returns the property of this name.
    """
    uses = {name for name in dir(session_class) if not name.startswith("_")} - {"accessed"}
    is_method = {name: callable(getattr(session_class, name)) for name in (*uses, *_USES)}
    return {name: use(name) if is_method[name] else attribute(name) for name in (*uses, *_USES)}


def _refusing(session_class: type[Session], path: str) -> type[Session]:
    """Return a class of sessions of which any use raises ConfigurationError.

    Args:
        session_class: what handlers get elsewhere.
        path: what `exclude` has.
    """

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ConfigurationError(
            f"exclude: it has {path!r}, so that this request has no session; take that out of exclude, or do not use "
            "request.session here"
        )

    def shown(_: object) -> str:
        return f"Session(none: exclude has {path!r})"

    members = members_for(session_class, lambda _: refuse, lambda _: property(refuse, refuse, refuse))
    # A subclass's `__init__` may use the session.
    return type("Session", (session_class,), {**members, "__init__": Session.__init__, "__repr__": shown})
