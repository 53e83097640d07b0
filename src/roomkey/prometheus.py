"""Prometheus: counts of what happens to sessions. `SessionConfig(on_event=session_metrics())`.

Needs the package `prometheus_client` (`roomkey[prometheus]`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args, get_type_hints

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError("roomkey.prometheus needs prometheus_client: pip install 'roomkey[prometheus]'") from _error

from roomkey.events import (
    ClientChanged,
    Created,
    Ended,
    Event,
    Expired,
    LoadedWithOldKey,
    Lost,
    Merged,
    Misfit,
    OutageBegan,
    OutageEnded,
    Refused,
    Renewed,
    Rotated,
    StoreAsked,
    logged_out,
    logs_in,
)

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from roomkey.manager import SessionManager
    from roomkey.stores.near import Near

__all__ = ["near_metrics", "session_metrics"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)  # seconds
_PLAIN: dict[type[Event], str] = {
    Created: "created",
    ClientChanged: "client_changed",
    Rotated: "rotated",
    Renewed: "renewed",
    Expired: "expired",
    LoadedWithOldKey: "loaded_with_old_key",
    Merged: "merged",
    Misfit: "misfit",
}


def session_metrics(registry: CollectorRegistry = REGISTRY) -> Callable[[Event], None]:
    """Return a subscriber that counts.

    The metrics: `roomkey_log_ins_total`, `roomkey_log_outs_total{reason}`, `roomkey_events_total{event}`,
    `roomkey_ended_total{reason}`, `roomkey_refused_total{reason}`, `roomkey_lost_total{reason}`, `roomkey_store_down`
    (1 during an outage) and the histogram `roomkey_store_seconds{operation, outcome}`. No label grows with users or
    sessions. Each value of a label is there from the start, as zero; of the histogram, each common operation.

    Args:
        registry: where the metrics are registered. One registry takes them once.
    """
    return _Counting(registry)


class _Counting:
    hears_store = True

    def __init__(self, registry: CollectorRegistry) -> None:
        def by_reason(name: str, what: str, *reasons: str) -> Counter:
            # From zero on: what counts increases would not notice the first of a series that was not there before.
            counter = Counter(name, f"{what}, by reason.", ["reason"], registry=registry)
            for reason in reasons:
                counter.labels(reason)
            return counter

        self._events = Counter("roomkey_events_total", "What happened to sessions.", ["event"], registry=registry)
        for name in _PLAIN.values():
            self._events.labels(name)
        self._ended = by_reason("roomkey_ended_total", "Sessions that were ended", *_reasons_of(Ended))
        self._refused = by_reason("roomkey_refused_total", "Cookies that led to no session", *_reasons_of(Refused))
        self._lost = by_reason("roomkey_lost_total", "Requests whose changes were not saved", *_reasons_of(Lost))
        self._log_outs = by_reason(
            "roomkey_log_outs_total", "Users who are no longer logged in", *_reasons_of(Ended), "expired"
        )
        self._log_ins = Counter("roomkey_log_ins_total", "Log-ins.", registry=registry)
        self._asked = Histogram(
            "roomkey_store_seconds",
            "How long an operation of the session store took, by outcome.",
            ["operation", "outcome"],
            buckets=_BUCKETS,
            registry=registry,
        )
        for operation in ("load", "create", "update", "rotate", "touch", "delete"):
            self._asked.labels(operation, "ok")
        self._down = Gauge("roomkey_store_down", "Whether the session store is out of order.", registry=registry)

    def __call__(self, event: Event) -> None:
        if isinstance(event, StoreAsked):
            self._asked.labels(event.operation, event.outcome).observe(event.seconds)
            return
        if logs_in(event):
            self._log_ins.inc()
        reason = logged_out(event)
        if reason is not None:
            self._log_outs.labels(reason).inc()
        if isinstance(event, Refused):
            self._refused.labels(event.reason).inc()
        elif isinstance(event, Ended):
            self._ended.labels(event.reason).inc()
        elif isinstance(event, Lost):
            self._lost.labels(event.reason).inc()
        elif isinstance(event, OutageBegan | OutageEnded):
            self._down.set(isinstance(event, OutageBegan))
        elif type(event) in _PLAIN:
            self._events.labels(_PLAIN[type(event)]).inc()


def _reasons_of(kind: type[Event]) -> tuple[str, ...]:
    return get_args(get_type_hints(kind)["reason"])


class _NearCollector(Collector):
    def __init__(self, near: Near) -> None:
        self._near = near

    def collect(self) -> Iterable[Metric]:
        near = self._near
        reads = CounterMetricFamily("roomkey_near_reads", "Sessions that were asked for.", labels=["from"])
        reads.add_metric(["memory"], near.hits)
        reads.add_metric(["store"], near.misses)
        yield reads
        yield GaugeMetricFamily("roomkey_near_sessions", "Sessions that are kept in memory.", len(near))
        yield GaugeMetricFamily("roomkey_near_bytes", "Bytes that they take, about.", near.bytes)


def near_metrics(manager: SessionManager, registry: CollectorRegistry = REGISTRY) -> None:
    """Count what `near_cache` saves. Without it, this does nothing.

    The metrics: `roomkey_near_reads_total{from}` (`memory` or `store`), `roomkey_near_sessions` and
    `roomkey_near_bytes`.

    Args:
        manager: whose sessions are kept near.
        registry: where the metrics are registered. One registry takes them once.
    """
    if manager.near is not None:
        registry.register(_NearCollector(manager.near))
