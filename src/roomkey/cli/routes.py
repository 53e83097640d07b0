"""The routes of an app, as far as its framework shows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from roomkey.cli.checks.looked import Route
from roomkey.cli.projects import is_project, routes_of_project

__all__ = ["polled_by_name", "routes_of"]

_DEEPEST = 20  # apps within apps that are looked at
_POLLED = frozenset(
    {
        "alive",
        "health",
        "healthcheck",
        "healthz",
        "heartbeat",
        "keep-alive",
        "keepalive",
        "live",
        "livez",
        "ping",
        "poll",
        "polling",
        "ready",
        "readyz",
        "status",
        "unread",
    }
)


def routes_of(app: Any) -> tuple[tuple[Route, ...], bool]:
    """Return the routes of an app, and whether they are all that there are."""
    if is_project(app):
        return routes_of_project(), False
    for _ in range(_DEEPEST):
        rules = getattr(getattr(app, "url_map", None), "iter_rules", None)
        if rules is not None:  # Flask, Quart
            return tuple(Route(rule.rule, frozenset(rule.methods or ())) for rule in rules()), True
        if isinstance(getattr(app, "routes", None), list | tuple):
            unknown: list[object] = []
            return tuple(_flat(app.routes, "", unknown)), not unknown
        app = getattr(app, "app", None)
        if app is None:
            break
    return (), False


def _flat(routes: Iterable[Any], prefix: str, unknown: list[object]) -> Iterator[Route]:
    """Return routes, and those of mounted apps. `unknown` takes the apps that do not show theirs."""
    for route in routes:
        path = prefix + str(getattr(route, "path", "")).rstrip("/")
        methods = getattr(route, "methods", None) or getattr(route, "http_methods", None)
        inner = getattr(route, "routes", None)
        if isinstance(inner, list | tuple) and inner:
            yield from _flat(inner, path, unknown)
        elif methods:
            yield Route(path or "/", frozenset(str(method).upper() for method in methods))
        elif getattr(route, "app", None) is not None and not _is_harmless(route):
            unknown.append(route)


def _is_harmless(route: Any) -> bool:
    """Whether it takes no unsafe request: files, and WebSockets."""
    names = {type(route).__name__.lower(), type(route.app).__name__.lower()}
    return any("static" in name or "websocket" in name for name in names)


def polled_by_name(routes: Iterable[Route]) -> list[str]:
    """Return the paths of those routes that are named as if a page polled them. They have no parameters."""
    found = {
        route.path
        for route in routes
        if "GET" in route.methods
        and "{" not in route.path
        and "<" not in route.path
        and route.path.rstrip("/").rpartition("/")[2].lower() in _POLLED
    }
    return sorted(found)
