"""What a pooler between a store and PostgreSQL says of itself: https://www.pgbouncer.org/config.html"""

from __future__ import annotations

import re

__all__ = ["refused_setting"]


def refused_setting(words: str) -> str | None:
    """Say that a pooler does not take a setting that a connection begins with; None: this is another error.

    Args:
        words: the pooler's, whole. Only the setting's name is shown.
    """
    found = re.search(r"unsupported startup parameter(?: in options)?: ([a-z_][a-z0-9_.]{0,62})", words)
    if found is None:
        return None
    if found[1] == "options":
        return "PgBouncer does not take options from clients: take them out of the URL, and give them to the role"
    return (
        f"PgBouncer does not take the setting {found[1]} from clients: take it out of the URL, and give it to the role "
        f"(ALTER ROLE app SET {found[1]} = ...) or in PgBouncer's connect_query"
    )
