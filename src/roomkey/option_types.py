"""The options of `SessionConfig` as types, for calls that take them by keyword."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from roomkey.options import Seconds
from roomkey.stores.base import Store
from roomkey.stores.cookie import CookieStore
from roomkey.wire.own import Encoders
from roomkey.wire.whose import UserKey

if TYPE_CHECKING:
    from roomkey.events import ClientChanged, Subscriber
    from roomkey.legacy import LegacyReader

__all__ = ["CookieOptions", "Options", "OtherOptions", "SessionOptions"]


class CookieOptions(TypedDict, total=False):
    session_cookie: str
    same_site: Literal["lax", "strict", "none"]
    https_only: bool | Literal["auto"]
    persistent: bool
    path: str
    domain: str | None
    partitioned: bool


class OtherOptions(TypedDict, total=False):
    """The options that are not about the cookie and its key, for frameworks that have settings for these."""

    max_age: Seconds | None
    absolute_timeout: Seconds | None
    anonymous_max_age: Seconds | None
    store: Store | CookieStore | os.PathLike[str] | str
    user_key: UserKey | None
    rotate_on: Sequence[str]
    max_sessions_per_user: int | None
    record_client: bool
    country: Callable[[str], str | None] | None
    seal: bool
    store_timeout: Seconds
    max_bytes: int
    strict_types: bool
    card_header: str | None
    encoders: Encoders | None
    legacy: Sequence[LegacyReader]
    live: bool
    live_interval: Seconds
    vary: Literal["used", "always"]
    clear_site_data: Sequence[str]
    exclude: Sequence[str]
    passive: Sequence[str]
    near_cache: int | None
    near_max_age: Seconds
    fresh: Sequence[str]
    on_event: Subscriber | None
    on_client_changed: Callable[[Any, ClientChanged], None] | None
    clock: Callable[[], float]


class Options(CookieOptions, OtherOptions, total=False):
    pass


class SessionOptions(Options, total=False):
    """The options of `SessionConfig`, for `SessionMiddleware(app, **options)`."""

    secret_key: Any
