"""Proxies before the running site, as its answers show them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from roomkey.cli.checks.looked import Finding, Gap, Looked, Pair, check

__all__ = ["proxy_drops_host", "proxy_drops_scheme"]

_PAGE = "docs/howto-operate.md#behind-https"
_PORTS = {"http": 80, "https": 443}
_REFUSED = 403


@check("proxy-drops-host", _PAGE)
def proxy_drops_host(looked: Looked) -> Iterator[Finding | Gap]:
    """A proxy does not pass the `Host` header on."""
    public = looked.public
    if public is None:
        return
    ours = _place(f"{public.scheme}://{public.host}")
    seen = [_place(there) for here, there in map(_targets, public.pairs) if _place(here) == ours and _place(there)]
    here, there = public.same_origin
    if there.status == _REFUSED != here.status or any(host != ours for host in seen):
        yield Finding(
            f"The app behind {public.host} does not see this host: "
            + (
                "it refuses a request whose Origin is the site itself."
                if there.status == _REFUSED != here.status
                else "its redirects lead to another one."
            ),
            "Have the proxy pass the Host header on (nginx: proxy_set_header Host $host).",
        )
    elif not seen and not _shows_origin_check(public.same_origin, looked):
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
            "--forwarded-allow-ips; Flask: werkzeug's ProxyFix).",
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


def _shows_origin_check(pair: Pair, looked: Looked) -> bool:
    """Whether the app compares `Origin` and `Host`, so that its answer to the site's own page tells."""
    checks = any(layer.kind == "csrf" and layer.is_roomkeys for layer in pair.here.layers)
    return checks and pair.here.status == pair.there.status != _REFUSED
