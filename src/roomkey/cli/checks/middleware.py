"""What stands around the app: which middleware is there, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

from roomkey.cli.checks.looked import UNSAFE, Finding, Gap, Layer, Looked, check

__all__ = ["csrf_off", "middleware_order", "polling_renews", "request_fails", "roomkey_warned"]

_CSRF = "docs/howto-csrf.md"
_REFUSED = 403
_FAILED = 500  # and above
_NOT_REACHED = "no request came to Roomkey's middleware: give a path of the app that has it, with --path"

_FUNCTION = "Add Flask-WTF's CSRFProtect(app), or check `Sec-Fetch-Site` and `Origin` in a before_request function."
_ADD_CSRF = {
    "asgi": "Add roomkey.csrf.CSRFMiddleware inside of SessionMiddleware.",
    "django": "Add django.middleware.csrf.CsrfViewMiddleware to MIDDLEWARE.",
    "flask": _FUNCTION,
    "quart": _FUNCTION,
}


@check("middleware-order", _CSRF)
def middleware_order(looked: Looked) -> Iterator[Finding | Gap]:
    """A middleware that needs the session is outside of the session's."""
    if looked.framework in ("flask", "quart"):
        return  # the session is there before any function of the app
    if looked.no_answers:
        yield Gap(looked.no_answers)
        return
    if not any(_sessions(answer.layers) for answer in (*looked.answers, *looked.polls)):
        yield Gap(_NOT_REACHED)
        return
    early: dict[str, Layer] = {}
    for answer in (*looked.answers, *looked.polls):
        inside = _sessions(answer.layers)
        for layer in answer.layers[: inside[0]] if inside else ():
            if layer.kind == "auth" or (layer.kind == "csrf" and layer.is_roomkeys):
                early[layer.name] = layer
    for name in sorted(early):
        yield Finding(
            f"{name} is outside of SessionMiddleware. It runs before there is a session, and after it was saved.",
            "Name roomkey.django.SessionMiddleware before it in MIDDLEWARE."
            if looked.framework == "django"
            else "Put SessionMiddleware outside of it. With add_middleware, add SessionMiddleware last.",
        )


@check("csrf-off", _CSRF)
def csrf_off(looked: Looked) -> Iterator[Finding | Gap]:
    """Nothing refuses the requests that another site's page makes."""
    if not looked.with_cookie:
        return  # no browser sends the card in a header by itself
    if looked.knows_routes and not any(route.methods & UNSAFE for route in looked.routes):
        return  # nothing can be changed
    if looked.cross_site is None or looked.same_site is None:
        yield Gap(looked.no_answers)
        return
    answers = [*looked.answers, *looked.polls, looked.cross_site]
    layers = [layer for answer in answers for layer in answer.layers]
    if "csrf" in looked.extensions or any(layer.kind == "csrf" for layer in layers):
        return
    if looked.framework in ("asgi", "django") and not _sessions(tuple(layers)):
        yield Gap(_NOT_REACHED)
    elif looked.cross_site.status != _REFUSED and looked.imports_tokens:
        yield Gap("the app imports verify_csrf_token: whether each handler that changes something calls it is not seen")
    elif looked.cross_site.status != _REFUSED:
        is_open = any(manager.config.same_site == "none" for manager in looked.with_cookie)
        most = "SameSite=None lets all of them bring the cookie."
        yield Finding(
            "The app takes requests that another site's page makes. "
            + (most if is_open else "SameSite stops most of them, and not those of a sibling domain."),
            _ADD_CSRF[looked.framework],
        )
    elif looked.same_site.status == _REFUSED:
        yield Gap("the app answers 403 to every request here, so that it does not show whether it checks their origin")


@check("polling-renews", "docs/howto-keep-alive.md#routes-that-need-no-session-or-keep-none-alive")
def polling_renews(looked: Looked) -> Iterator[Finding | Gap]:
    """A route that pages poll, by its name, keeps the session alive."""
    for answer in looked.polls:
        if answer.used_session:
            yield Finding(
                f"GET {answer.path} uses the session. If a page polls it, an idle user is never logged out.",
                f"Add {answer.path!r} to passive, or to exclude if it needs no session.",
            )


@check("request-fails", "docs/howto-doctor.md")
def request_fails(looked: Looked) -> Iterator[Finding | Gap]:
    """The app answers a request with an error of its own, or not at all."""
    if any(look.not_ready or look.silent for look in looked.stores):
        return  # which says why
    for answer in (*looked.answers, *looked.polls):
        if answer.status == 0 or answer.status >= _FAILED:
            what = f"is answered {answer.status}" if answer.status else "is not answered in time"
            why = f" ({answer.error})" if answer.error else ""
            yield Finding(
                f"GET {answer.path} {what}{why}.",
                "Look into the app's log. What a handler does to the session is not saved where it fails.",
            )


@check("roomkey-warned", "docs/howto-doctor.md")
def roomkey_warned(looked: Looked) -> Iterator[Finding | Gap]:
    """Roomkey logged a warning while the app started and answered."""
    for message in looked.said:
        yield Finding(message, "The message says what to do.")


def _sessions(layers: tuple[Layer, ...]) -> list[int]:
    return [at for at, layer in enumerate(layers) if layer.kind == "roomkey"]
