"""The names that other libraries have for options, so that an unknown option is told its name here."""

__all__ = ["CALLED_ELSEWHERE", "LEAVE_OUT"]

CALLED_ELSEWHERE = {
    "secure": "https_only",
    "https": "https_only",
    "cookie_secure": "https_only",
    "samesite": "same_site",
    "cookie": "session_cookie",
    "cookie_name": "session_cookie",
    "cookie_path": "path",
    "cookie_domain": "domain",
    "key": "secret_key",
    "secret": "secret_key",
    "lifetime": "max_age",
    "timeout": "max_age",
    "expire": "max_age",
    "expires": "max_age",
    "session_lifetime": "max_age",
    "session_ttl": "max_age",
    "idle_timeout": "max_age",
    "ttl": "max_age",
    "backend": "store",
    "session_backend": "store",
    "redis_url": "store",
}
LEAVE_OUT = {
    "rolling": "max_age counts from the last use in any case: leave it out",
    **dict.fromkeys(("httponly", "http_only", "cookie_httponly"), "the cookie is always HttpOnly: leave it out"),
    "session_serializer": "values keep their type without a serializer: leave it out",
    "session_deserializer": "values keep their type without a deserializer: leave it out",
    "populate_session": "it would create a session for every bot: set the first values in a handler instead",
}
