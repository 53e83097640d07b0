"""The client of a request: what a log-in keeps of it, and whether it is another one by now."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from roomkey.events import ClientChanged
from roomkey.wire.about import About, about_in, agent_text

__all__ = ["Clients", "client_of"]

_log = logging.getLogger("roomkey")
_LONGEST_ADDRESS = 64  # characters; an IPv6 address with a zone has room
_LONGEST_COUNTRY = 100  # characters
_MOST_TOLD = 10_000  # sessions of which an event was told, and is not told again

Headers = Iterable[tuple[bytes, bytes]]


def client_of(address: Any, headers: Headers) -> About:
    """Return the IP address as the server resolved it (anybody can send `X-Forwarded-For`), and the user agent.

    Args:
        address: `scope["client"]`: host and port; None: the server does not say.
        headers: of the request.
    """
    agent = next((value for name, value in headers if name.lower() == b"user-agent"), None)
    ip = str(address[0])[:_LONGEST_ADDRESS] if address else None
    return About(ip, None if agent is None else agent_text(agent))


class Clients:
    """Of one configuration that records clients.

    Args:
        country: returns the country of an IP address; None: nobody asks.
        changed: is called where a live session comes from another client than the one that logged in; None: nobody.
        tell: is told of the same, once for each session and client.
        is_heard: whether anybody hears that.
    """

    def __init__(
        self,
        country: Callable[[str], str | None] | None,
        changed: Callable[[Any, ClientChanged], object] | None,
        tell: Callable[[ClientChanged], None],
        is_heard: Callable[[], bool],
    ) -> None:
        self._country, self._changed, self._tell, self._is_heard = country, changed, tell, is_heard
        self._told: OrderedDict[tuple[str, str | None, tuple[str | None, str | None]], None] = OrderedDict()
        self._has_failed = False

    def of_log_in(self, client: About) -> About:
        """Return the client of a log-in, with its country. There is none where `country` raises: the log says it."""
        if self._country is None or client.ip is None:
            return client
        try:
            country = self._country(client.ip)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.exception("country raised; the log-in goes on without it (said once)")
            return client
        return client._replace(country=country[:_LONGEST_COUNTRY]) if isinstance(country, str) and country else client

    def compare(self, session: Any, key: str, user: str | None, stored: bytes, address: Any, headers: Headers) -> None:
        """Say so where a session comes from another client than the one that logged in.

        Args:
            session: the session, as the handler gets it.
            key: its store key.
            user: whose it is.
            stored: what its record shows of the client that logged in.
            address: as for `client_of`.
            headers: as for `client_of`.
        """
        if self._changed is None and not self._is_heard():
            return
        then, now = about_in(stored), client_of(address, headers)
        if then.ip is None and then.user_agent is None:
            return
        has_other_ip, has_other_agent = then.ip != now.ip, then.user_agent != now.user_agent
        if not (has_other_ip or has_other_agent):
            return
        from roomkey.core.agents import agent_from  # here, because its patterns take a while to be made

        device = agent_from(now.user_agent)[:2]
        has_other_device = has_other_agent and agent_from(then.user_agent)[:2] != device
        if not (has_other_device or has_other_ip):
            return
        changed = ClientChanged(
            key, user, now.ip, now.user_agent, then.ip, then.user_agent, has_other_ip, has_other_device
        )
        if self._is_new((key, now.ip, device)):
            self._tell(changed)
        if self._changed is not None:
            self._changed(session, changed)

    def _is_new(self, what: tuple[str, str | None, tuple[str | None, str | None]]) -> bool:
        if what in self._told:
            return False
        self._told[what] = None
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        return True
