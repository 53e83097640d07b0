"""OpenTelemetry: events of sessions as log events, and metrics. `SessionConfig(on_event=session_telemetry())`.

Needs the package `opentelemetry-api` (`roomkey[otel]`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

try:
    from opentelemetry import context, metrics
    from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
except ImportError as _error:
    raise ImportError("roomkey.otel needs opentelemetry-api 1.36 or newer: pip install 'roomkey[otel]'") from _error

from roomkey.events import Event, Lost, Misfit, OutageBegan, StoreAsked, logged_out, logs_in

__all__ = ["session_telemetry"]

_PERSONAL = {"user", "old_user", "actor", "ip", "old_ip", "user_agent", "old_user_agent"}
_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]  # seconds


def session_telemetry(*, users: bool = False) -> Callable[[Event], None]:
    """Return a subscriber that tells OpenTelemetry.

    The counters are `roomkey.log_ins`, and `roomkey.log_outs` by `reason`. The histogram `roomkey.store.duration` has
    the seconds that each operation of the store took, by `store`, `operation` and `outcome`.

    Each event becomes a log event (a log record with an event name), named `roomkey.` and the event's class, with its
    fields as attributes. It has the trace and the span of its request. It also adds one to the counter
    `roomkey.events`, by `event` and, where there is one, `reason`.

    Args:
        users: whether log events name the user whose session it is, and the client. Off by default, because both are
            personal data.
    """
    return _Telling(users=users)


class _Telling:
    hears_store = True

    def __init__(self, *, users: bool) -> None:
        meter = metrics.get_meter("roomkey")
        self._counter = meter.create_counter("roomkey.events", description="What happened to sessions.")
        self._log_ins = meter.create_counter("roomkey.log_ins", description="Log-ins.")
        self._log_outs = meter.create_counter("roomkey.log_outs", description="Users who are no longer logged in.")
        self._duration = meter.create_histogram(
            "roomkey.store.duration",
            unit="s",
            description="How long an operation of the session store took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._logger = get_logger("roomkey")
        self._hidden = set() if users else _PERSONAL

    def __call__(self, event: Event) -> None:
        if isinstance(event, StoreAsked):
            labels = {"store": event.store, "operation": event.operation, "outcome": event.outcome}
            self._duration.record(event.seconds, labels)
            return
        if logs_in(event):
            self._log_ins.add(1)
        reason = logged_out(event)
        if reason is not None:
            self._log_outs.add(1, {"reason": reason})
        self._tell(event)

    def _tell(self, event: Event) -> None:
        name = type(event).__name__
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        labels = {"event": name} | ({"reason": fields["reason"]} if "reason" in fields else {})
        self._counter.add(1, labels)
        severity = _severity(event)
        self._logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=context.get_current(),
                severity_number=severity,
                severity_text=severity.name,
                event_name=f"roomkey.{name}",
                attributes={
                    f"roomkey.{key}": value
                    for key, value in fields.items()
                    if value is not None and key not in self._hidden
                },
            )
        )


def _severity(event: Event) -> SeverityNumber:
    if isinstance(event, OutageBegan):
        return SeverityNumber.ERROR
    return SeverityNumber.WARN if isinstance(event, Lost | Misfit) else SeverityNumber.INFO
