"""Proxies before the running site, as its answers show them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from roomkey.cli.checks.looked import Finding, Gap, Looked, Pair, Public, check

__all__ = ["proxy_drops_host", "proxy_drops_scheme"]

_PAGE = "docs/howto-operate.md#behind-https"
_PORTS = {"http": 80, "https": 443}
_REFUSED = 403
_FAILED = 400  # and above


@check("proxy-drops-host", _PAGE)
def proxy_drops_host(looked: Looked) -> Iterator[Finding | Gap]:
    """A proxy does not pass the `Host` header on."""
    public = looked.public
    if public is None:
        return
    ours = _place(f"{public.scheme}://{public.host}")
    seen = [_place(there) for here, there in map(_targets, public.pairs) if _place(here) == ours and _place(there)]
    if _is_refused(public):
        how = "it refuses a request whose Origin is the site itself."
    elif any(host != ours for host in seen):
        how = "its redirects lead to another one."
    else:
        yield from _unseen(public, is_seen=bool(seen))
        return
    yield Finding(
        f"The app behind {public.host} does not see this host: {how}",
        "Have the proxy pass the Host header on (nginx: proxy_set_header Host $http_host).",
    )


def _is_refused(public: Public) -> bool:
    """Whether the site refuses requests of its own pages, and the app here does not. Others it lets pass."""
    here, there = public.same_origin
    return there.status == _REFUSED and _REFUSED not in (here.status, public.without_origin.status)


def _unseen(public: Public, *, is_seen: bool) -> Iterator[Gap]:
    """Say what the site's answers do not show."""
    for here, there in public.pairs:
        if (here.status < _FAILED) is not (there.status < _FAILED):
            yield Gap(f"GET {here.path} is answered {here.status} here and {there.status} there: is it the same app?")
            return
    here, there = public.same_origin
    checks_origin = any(layer.kind == "csrf" and layer.is_roomkeys for layer in here.layers)
    if not is_seen and not (checks_origin and here.status == there.status != _REFUSED):
        yield Gap("no answer of the site shows which Host the app sees: give the path of a redirect with --path")


@check("proxy-drops-scheme", _PAGE)
def proxy_drops_scheme(looked: Looked) -> Iterator[Finding | Gap]:
    """A proxy that speaks HTTPS does not tell the app so."""
    public = looked.public
    if public is None or public.scheme != "https":
        return
    seen = [urlsplit(there).scheme for here, there in map(_targets, public.pairs) if here.startswith("https://")]
    if "http" in seen:
        yield Finding(
            "The app behind the site takes its requests for plain HTTP: its redirects lead to http://.",
            "Have the proxy send X-Forwarded-Proto, and have the server trust it (uvicorn: --proxy-headers and "
            "--forwarded-allow-ips; Flask: werkzeug's ProxyFix; Django: SECURE_PROXY_SSL_HEADER).",
        )
    elif not any(seen):
        yield Gap("no answer of the site shows which scheme the app sees: give the path of a redirect with --path")


def _targets(pair: Pair) -> tuple[str, str]:
    """Return where the app here and the site redirect to."""
    return pair.here.header("location") or "", pair.there.header("location") or ""


def _place(url: str) -> tuple[str, int] | None:
    """Return host and port of a URL, whatever its scheme is by now. None: it has none."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        return None
    return (parts.hostname, port or 0 if port not in _PORTS.values() else 0) if parts.hostname else None
