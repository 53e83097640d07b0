"""Subscribers for Prometheus and OpenTelemetry, against the real libraries."""

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from roomkey import SessionConfig, SessionManager, Sessions
from roomkey.events import OutageBegan, OutageEnded
from roomkey.otel import session_telemetry
from roomkey.prometheus import near_metrics, session_metrics
from roomkey.stores.sqlite import SQLiteStore
from tests.driver import Driver


async def _a_life(on_event):
    """Log in, change the session twice at once, rotate, show a forged card, revoke."""
    life = Driver(SessionConfig(secret_key="k" * 32, store="memory://", on_event=on_event))
    visit = life.anonymous()
    visit.session["user_id"] = 42
    await visit.commit()
    one, two = [await life.arrive([visit.card]) for _ in range(2)]
    one.session["a"], two.session["b"] = 1, 2
    await one.commit()
    await two.commit()
    two.session.rotate()
    await two.commit()
    await life.arrive([b"forged"])
    await Sessions(life).revoke_all(42)


async def test_prometheus_counts():
    """Each event adds to its counter, and an outage is a gauge; no label holds a user or a handle."""
    registry = CollectorRegistry()
    count = session_metrics(registry)
    await _a_life(count)

    def value(name, **labels):
        return registry.get_sample_value(name, labels)

    for event in ("created", "merged", "rotated"):
        assert value("roomkey_events_total", event=event) == 1
    assert value("roomkey_ended_total", reason="revoked") == 1
    assert value("roomkey_refused_total", reason="card") == 1
    assert value("roomkey_store_down") == 0
    count(OutageBegan("Store", "down"))
    assert value("roomkey_store_down") == 1
    count(OutageEnded("Store"))
    assert value("roomkey_store_down") == 0


async def test_prometheus_counts_what_is_kept_near(tmp_path):
    """Reads from memory and from the store are counted, and what is in memory is shown."""
    registry, store = CollectorRegistry(), SQLiteStore(tmp_path / "sessions.sqlite3")
    manager = SessionManager(secret_key="k" * 32, store=store, near_cache=10)
    near_metrics(manager, registry)
    async with manager:
        session = await manager.load()
        session["user_id"] = 7
        cookie = dict(await manager.commit(session))["set-cookie"].split(";")[0]
        for _ in range(3):
            await manager.load(cookie)
        near = manager.near
        found = {
            name: registry.get_sample_value("roomkey_near_reads_total", {"from": name}) for name in ("memory", "store")
        }
        assert found == {"memory": near.hits, "store": near.misses} and near.hits > 0
        assert registry.get_sample_value("roomkey_near_sessions") == 1
        assert registry.get_sample_value("roomkey_near_bytes") == near.bytes > 0
    empty = CollectorRegistry()
    near_metrics(SessionManager(secret_key="k" * 32, store="memory://"), empty)
    assert list(empty.collect()) == []


def test_prometheus_counts_from_zero():
    """Each label value is there from the start: an alert on the increase of a counter hears of the first one too."""
    registry = CollectorRegistry()
    session_metrics(registry)
    values = {
        "roomkey_events_total": (
            "event",
            {"created", "rotated", "renewed", "expired", "loaded_with_old_key", "merged", "misfit"},
        ),
        "roomkey_ended_total": ("reason", {"cleared", "revoked", "limit"}),
        "roomkey_refused_total": ("reason", {"card", "key", "unknown", "rotated", "damaged"}),
        "roomkey_lost_total": ("reason", {"ended", "log-in"}),
    }
    for name, (label, expected) in values.items():
        for value in expected:
            assert registry.get_sample_value(name, {label: value}) == 0


async def test_opentelemetry_is_told():
    """Events are on the span that was current, without the user unless asked for."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for users in (False, True):
        exporter.clear()
        with provider.get_tracer("test").start_as_current_span("request"):
            await _a_life(session_telemetry(users=users))
        (span,) = exporter.get_finished_spans()
        names = [event.name for event in span.events]
        assert names == [f"roomkey.{name}" for name in ("Created", "Merged", "Rotated", "Refused", "Ended")]
        assert span.events[3].attributes == {"roomkey.reason": "card"}
        assert ("roomkey.user" in span.events[0].attributes) is users
    assert not trace.get_current_span().is_recording()
