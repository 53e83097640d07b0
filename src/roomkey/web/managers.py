"""Which session manager an app has: the one that it was given, or one that is made of what it was given."""

from __future__ import annotations

from weakref import WeakValueDictionary

from roomkey.config import SessionConfig, SessionOptions
from roomkey.errors import ConfigurationError
from roomkey.manager import SessionManager
from roomkey.web.asgi import App
from roomkey.web.frameworks import is_route

__all__ = ["manager_around", "manager_of"]

# Managers of configurations, by `id`, where a framework makes a middleware for each route.
_SHARED: WeakValueDictionary[int, SessionManager] = WeakValueDictionary()


def manager_of(config: SessionConfig | SessionManager | None, options: SessionOptions) -> SessionManager:
    """Return the manager that was given, or the one that a configuration or its options make.

    Raises:
        ConfigurationError: an option is wrong, unknown or missing, or options were given beside something else.
    """
    if not isinstance(config, SessionManager):
        return SessionManager(config, **options)
    if options:
        raise ConfigurationError(f"give a manager or options, not both (got a manager and {', '.join(options)})")
    return config


def manager_around(app: App, config: SessionConfig | SessionManager | None, options: SessionOptions) -> SessionManager:
    """As `manager_of`, for a middleware around `app`. Those around the routes of one app share their manager.

    Raises:
        ConfigurationError: as for `manager_of`, or routes were given options, of which each would make a store.
    """
    if isinstance(config, SessionManager) or not is_route(app):
        return manager_of(config, options)
    if config is None:
        raise ConfigurationError(
            "this framework makes its middleware anew for each route, and options would make a store for each: "
            "give all of them one configuration, as DefineMiddleware(SessionMiddleware, config=SessionConfig(...))"
        )
    manager = _SHARED.get(id(config))
    if manager is None:
        manager = _SHARED[id(config)] = manager_of(config, options)
    return manager
