"""Moving in: readers of other libraries' sessions, which become Roomkey sessions on first sight.

A reader knows one library's cookie and gives the data that it stands for. Nothing of the old session is adopted but its
data: the session that is made of it has a fresh ID.
"""

from roomkey.legacy.readers import LegacyReader, LegacySession
from roomkey.legacy.redis import LitestarRedis, StarsessionsRedis
from roomkey.legacy.signed import DjangoCookie, FlaskCookie, LilyaCookie, RavynCookie, StarletteCookie

__all__ = [
    "DjangoCookie",
    "FlaskCookie",
    "LegacyReader",
    "LegacySession",
    "LilyaCookie",
    "LitestarRedis",
    "RavynCookie",
    "StarletteCookie",
    "StarsessionsRedis",
]
