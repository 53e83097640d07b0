"""Settings classes as an app would have them, loaded by name through the environment."""

from ravyn import RavynSettings

from roomkey.ravyn import SessionConfig

SECRET = "a secret for the tests, long enough"


class Annotated(RavynSettings):
    session_config: SessionConfig = SessionConfig(secret_key=SECRET, session_cookie="annotated", store="memory://")


class Property(RavynSettings):
    @property
    def session_config(self) -> SessionConfig:
        return SessionConfig(secret_key=SECRET, session_cookie="property", store="memory://")
