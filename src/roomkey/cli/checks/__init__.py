"""What `roomkey doctor` checks. Each check is a function of what was looked at, and yields weaknesses."""

from __future__ import annotations

from roomkey.cli.checks import cookies, keys, log_ins, middleware, proxies, store
from roomkey.cli.checks.looked import Check

__all__ = ["CHECKS"]

# In the order in which they are shown.
CHECKS: dict[str, Check] = {
    each.name: each
    for each in (
        keys.key_weak,
        keys.key_per_process,
        cookies.cookie_not_secure,
        cookies.cookie_no_prefix,
        cookies.cookie_name_twice,
        cookies.cookie_large,
        middleware.middleware_order,
        middleware.csrf_off,
        middleware.polling_renews,
        middleware.request_fails,
        middleware.roomkey_warned,
        log_ins.user_key_none,
        log_ins.log_in_not_seen,
        store.store_not_ready,
        store.store_silent,
        store.store_forgets,
        store.clocks_apart,
        store.near_not_told,
        store.sessions_large,
        proxies.proxy_drops_host,
        proxies.proxy_drops_scheme,
    )
}
