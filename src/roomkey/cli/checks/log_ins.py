"""Log-ins that Roomkey does not see: it then neither changes the session's ID nor finds a user's sessions."""

from __future__ import annotations

from collections.abc import Iterator

from roomkey.cli.checks.looked import Finding, Gap, Looked, check
from roomkey.wire.whose import Whose

__all__ = ["log_in_not_seen", "user_key_none"]

_PAGE = "docs/howto-users.md"


@check("user-key-none", _PAGE)
def user_key_none(looked: Looked) -> Iterator[Finding | Gap]:
    """`user_key` is None: a log-in does not change the session's ID."""
    if any(manager.config.user_key is None for manager in looked.managers):
        yield Finding(
            "user_key is None. A log-in does not change the session's ID, so that whoever planted it is logged in too. "
            "Nobody can list or end a user's sessions.",
            "Give user_key the session key that says who is logged in. Where there is none, call session.rotate() at "
            "each log-in.",
        )


@check("log-in-not-seen", _PAGE)
def log_in_not_seen(looked: Looked) -> Iterator[Finding | Gap]:
    """Another library logs its users in under a key that is not `user_key`."""
    for look in looked.stores:
        config, sample = look.manager.config, look.sample
        if config.user_key is None:
            continue  # which `user-key-none` tells
        if sample is None:
            if look.no_sample:
                yield Gap(look.no_sample)
        elif sample.is_sealed:
            yield Gap("seal=True: nobody but their users' requests can read the sessions")
        elif sample.unseen_log_ins:
            names, whose = ", ".join(map(repr, sample.unseen_log_ins)), Whose(config.user_key).shown
            yield Finding(
                f"Sessions in which user_key={whose} finds nobody have keys of a log-in: {names}. Such a "
                "log-in does not change the session's ID, so that whoever planted it is logged in too.",
                "Give user_key the key that this log-in sets, or the path to the ID in it, such as 'user.sub'. Where "
                "there is no ID, put one under a key of your own at each log-in.",
            )
