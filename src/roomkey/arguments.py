"""What a caller gives to a session manager, checked."""

from __future__ import annotations

from typing import Any

from roomkey.config import SessionConfig
from roomkey.core.ports import Origin
from roomkey.core.session import Session
from roomkey.errors import ConfigurationError

__all__ = ["check_session", "checked_config"]


def checked_config(config: object, options: dict[str, Any]) -> SessionConfig:
    """Return the configuration that was given, or the one that the options make. Raises ConfigurationError."""
    if config is None:
        return SessionConfig.from_options(options)
    if options:
        raise ConfigurationError(f"give a config or options, not both (got a config and {', '.join(options)})")
    if not isinstance(config, SessionConfig):
        hint = "; give the key as secret_key=..." if isinstance(config, str | bytes) else ""
        raise ConfigurationError(f"config: got {type(config).__name__}; it takes a roomkey.SessionConfig{hint}")
    return config


def check_session(session: object, origin: Origin, what: str) -> None:
    """Refuse what is no session, or not one of this manager's.

    Args:
        session: what was given.
        origin: loads this manager's sessions.
        what: the name of the method that it was given to.

    Raises:
        TypeError: it is no session.
        ConfigurationError: another manager loaded it, or none.
    """
    if not isinstance(session, Session):
        raise TypeError(f"{what}: got {type(session).__name__}; it takes the session that `load` returned")
    if session._origin is not origin:
        raise ConfigurationError(f"{what}: the session was loaded by another SessionManager, or by none")
