"""Paths of URLs, as options give them: which requests they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from roomkey.errors import ConfigurationError

__all__ = ["Paths", "checked_paths"]


class Paths:
    """The paths of one option.

    A path stands for itself. One that ends with `/` stands for everything below it too. Paths count from the app's
    root: where the server or a mount says that the app lies below a `root_path`, that is left out.

    Args:
        paths: as `checked_paths` returns them.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._exact = frozenset(paths)
        self._below = tuple(path for path in paths if path.endswith("/"))

    def match(self, scope: Mapping[str, Any]) -> str | None:
        """Return which of the paths stands for a request; None: none does. `scope`: the request's, as in ASGI."""
        path = _within_app(scope.get("path", ""), scope.get("root_path", ""))
        if path in self._exact:
            return path
        if self._below and path.startswith(self._below):
            return next(each for each in self._below if path.startswith(each))
        return None


def _within_app(path: str, root: str) -> str:
    """Return the path as the app's routes have it. Some servers leave the root out of the path themselves."""
    root = root.rstrip("/") if root else ""
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return path if rest and not rest.startswith("/") else rest or "/"


def checked_paths(option: str, paths: object, example: str) -> tuple[str, ...]:
    """Return the paths that an option was given.

    Args:
        option: its name.
        paths: what it was given.
        example: a path that it would take, with everything below it.

    Raises:
        ConfigurationError: it is no list, or one of the paths can match nothing, or is all paths.
    """
    if isinstance(paths, str | bytes) or not isinstance(paths, Iterable):
        kind = "text" if isinstance(paths, str) else type(paths).__name__
        raise ConfigurationError(f"{option}: got {kind}; it takes a list")
    checked = []
    for path in paths:
        if not isinstance(path, str) or not path.startswith("/") or path == "/" or "*" in path:
            raise ConfigurationError(
                f"{option}: got {path!r}; it takes paths that begin with '/', such as {example!r} (with everything "
                "below it). It takes no wildcards, and not '/' itself, which would be all paths"
            )
        checked.append(path)
    return tuple(checked)
