"""OpenTelemetry: events of sessions on the current span, and a counter. `SessionConfig(on_event=session_telemetry())`.

Needs the package `opentelemetry-api` (`roomkey[otel]`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

try:
    from opentelemetry import metrics, trace
except ImportError as _error:
    raise ImportError("roomkey.otel needs opentelemetry-api: pip install 'roomkey[otel]'") from _error

from roomkey.events import Event

__all__ = ["session_telemetry"]


def session_telemetry(*, users: bool = False) -> Callable[[Event], None]:
    """Return a subscriber that tells OpenTelemetry.

    Each event becomes an event of the current span, named `roomkey.` and the event's class, with its fields as
    attributes, and adds one to the counter `roomkey.events`, by `event` and, where there is one, `reason`.

    Args:
        users: whether spans name the user whose session it is. Off by default, because that is personal data.
    """
    counter = metrics.get_meter("roomkey").create_counter("roomkey.events", description="What happened to sessions.")

    def tell(event: Event) -> None:
        name = type(event).__name__
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        labels = {"event": name} | ({"reason": fields["reason"]} if "reason" in fields else {})
        counter.add(1, labels)
        hidden = set() if users else {"user", "old_user"}
        span = trace.get_current_span()
        if span.is_recording():
            attributes = {key: value for key, value in fields.items() if value is not None and key not in hidden}
            span.add_event(f"roomkey.{name}", {f"roomkey.{key}": value for key, value in attributes.items()})

    return tell
