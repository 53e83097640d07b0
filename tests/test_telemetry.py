"""Subscribers for Prometheus and OpenTelemetry, against the real libraries."""

import asyncio

import pytest
from opentelemetry import metrics
from opentelemetry._logs import SeverityNumber, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from roomkey import SessionConfig, SessionManager, Sessions
from roomkey.errors import StoreUnavailable
from roomkey.events import Created, Lost, OutageBegan, OutageEnded, StoreAsked
from roomkey.otel import session_telemetry
from roomkey.prometheus import near_metrics, session_metrics
from roomkey.stores.base import Conflict, Record
from roomkey.stores.guard import GuardedStore
from roomkey.stores.memory import MemoryStore
from roomkey.stores.sqlite import SQLiteStore
from roomkey.testing.clock import Clock
from tests.driver import Driver
from tests.servers.redis import RedisServer

# A process has one of each.
_exporter = (
    getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter
)  # its name in 1.36
LOGS, METRICS = _exporter(), InMemoryMetricReader()
_provider = LoggerProvider()
_provider.add_log_record_processor(logs_export.SimpleLogRecordProcessor(LOGS))
set_logger_provider(_provider)
metrics.set_meter_provider(MeterProvider([METRICS]))


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
            {"created", "rotated", "renewed", "expired", "client_changed", "loaded_with_old_key", "merged", "misfit"},
        ),
        "roomkey_ended_total": ("reason", {"cleared", "revoked", "limit"}),
        "roomkey_log_outs_total": ("reason", {"cleared", "revoked", "limit", "expired"}),
        "roomkey_refused_total": ("reason", {"card", "key", "unknown", "rotated", "damaged"}),
        "roomkey_lost_total": ("reason", {"ended", "log-in"}),
    }
    for name, (label, expected) in values.items():
        for value in expected:
            assert registry.get_sample_value(name, {label: value}) == 0


@pytest.fixture
def telemetry():
    """Return what OpenTelemetry's own SDK gathered: log records, and metrics by name."""
    LOGS.clear()
    return LOGS


async def test_opentelemetry_is_told(telemetry):
    """Each event is a log event in the span of its request, without the user unless asked for. The span has none."""
    provider = TracerProvider()
    spans = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    for users in (False, True):
        telemetry.clear()
        spans.clear()
        with provider.get_tracer("test").start_as_current_span("request"):
            await _a_life(session_telemetry(users=users))
        (span,) = spans.get_finished_spans()
        records = [each.log_record for each in telemetry.get_finished_logs()]
        names = [record.event_name for record in records]
        assert names == [f"roomkey.{name}" for name in ("Created", "Merged", "Rotated", "Refused", "Ended")]
        assert records[3].attributes == {"roomkey.reason": "card"}
        assert ("roomkey.user" in records[0].attributes) is users
        assert {record.span_id for record in records} == {span.context.span_id}
        assert {record.severity_number for record in records} == {SeverityNumber.INFO}
        assert not span.events


async def test_opentelemetry_says_how_bad_it_is(telemetry):
    """An outage is an error, what was lost is a warning."""
    tell = session_telemetry()
    for event in (OutageBegan("Store", "down"), Lost("handle", "ended"), OutageEnded("Store")):
        tell(event)
    severities = [each.log_record.severity_number for each in telemetry.get_finished_logs()]
    assert severities == [SeverityNumber.ERROR, SeverityNumber.WARN, SeverityNumber.INFO]


async def test_opentelemetry_measures():
    """Log-ins are counted, and each operation of the store is in a histogram of seconds."""
    await _a_life(session_telemetry())
    (resource,) = METRICS.get_metrics_data().resource_metrics
    found = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
    assert found["roomkey.log_ins"].data.data_points[0].value >= 1
    assert {point.attributes["reason"] for point in found["roomkey.log_outs"].data.data_points} == {"revoked"}
    points = found["roomkey.store.duration"].data.data_points
    asked = {(point.attributes["operation"], point.attributes["outcome"]) for point in points}
    assert found["roomkey.store.duration"].unit == "s"
    assert asked >= {("create", "ok"), ("load", "ok"), ("update", "ok"), ("rotate", "ok")}
    assert {point.attributes["store"] for point in points} == {"MemoryStore"}


def value(registry, name, **labels):
    return registry.get_sample_value(name, labels)


async def test_prometheus_tells_an_operator_all():
    """Log-ins, renewals, expiries and how long the store takes can be seen from the metrics alone."""
    registry, clock = CollectorRegistry(), Clock(1_000_000.0)
    config = SessionConfig(
        secret_key="k" * 32,
        store=MemoryStore(clock=clock),
        on_event=session_metrics(registry),
        clock=clock,
        max_age=1000,
    )
    life = Driver(config)
    visit = life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    assert value(registry, "roomkey_log_ins_total") == 0
    visit.session["user_id"] = 42
    await visit.commit()
    assert value(registry, "roomkey_log_ins_total") == 1
    clock.advance(200)
    again = await life.arrive([visit.card])
    assert again.session["user_id"] == 42
    await again.commit()
    assert value(registry, "roomkey_events_total", event="renewed") == 1
    clock.advance(2000)
    await life.registry.store.purge(100)
    assert value(registry, "roomkey_events_total", event="expired") == 1
    assert value(registry, "roomkey_log_outs_total", reason="expired") == 1
    for operation, count in {"create": 1, "rotate": 1, "load": 1, "touch": 1, "purge": 1}.items():
        asked = value(registry, "roomkey_store_seconds_count", operation=operation, outcome="ok")
        assert asked == count, operation


@pytest.mark.parametrize("leaves", ["nothing", "a message", "another user"])
async def test_every_log_out_is_counted(leaves):
    """Also one that leaves a message for the next page, or the session of another user."""
    registry = CollectorRegistry()
    life = Driver(SessionConfig(secret_key="k" * 32, store="memory://", on_event=session_metrics(registry)))
    visit = life.anonymous()
    visit.session["user_id"] = 42
    await visit.commit()
    visit = await life.arrive([visit.card])
    visit.session.clear()
    if leaves == "a message":
        visit.session.flash("Good bye")
    elif leaves == "another user":
        visit.session["user_id"] = 43
    await visit.commit()
    assert value(registry, "roomkey_log_outs_total", reason="cleared") == 1
    assert value(registry, "roomkey_log_ins_total") == 1 + (leaves == "another user")
    if leaves == "another user":
        await Sessions(life).revoke_all(43)
        assert value(registry, "roomkey_log_outs_total", reason="revoked") == 1


async def test_a_visitor_who_leaves_logs_out_nobody():
    """The end of a session of nobody is an end, and no log-out. Neither is a new ID."""
    registry = CollectorRegistry()
    life = Driver(SessionConfig(secret_key="k" * 32, store="memory://", on_event=session_metrics(registry)))
    visit = life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    visit.session.rotate()
    await visit.commit()
    visit.session.clear()
    await visit.commit()
    assert value(registry, "roomkey_ended_total", reason="cleared") == 1
    assert value(registry, "roomkey_log_outs_total", reason="cleared") == 0


class Troubled(MemoryStore):
    """A store that fails in the way that it is told to."""

    trouble = None

    async def load(self, key):
        if self.trouble is not None:
            await self.trouble()
        return await super().load(key)


async def _raise():
    raise OSError("down")


async def test_the_store_is_timed_by_outcome(settled):
    """An answer, a conflict, a failure, a silence and a request that was cut off are told apart."""
    told = []

    class Hearing:
        hears_store = True

        def __call__(self, event):
            told.append(event)

    store = Troubled()
    life = Driver(SessionConfig(secret_key="k" * 32, store=store, on_event=Hearing(), store_timeout=0.01))
    guard, record = life.registry.store, Record(b"x", 1, 0, 4e9)
    await guard.create("a" * 64, record)
    with pytest.raises(Conflict):
        await guard.create("a" * 64, record)
    for trouble in (_raise, asyncio.Event().wait):
        store.trouble = trouble
        with pytest.raises(StoreUnavailable):
            await guard.load("a" * 64)
    task = asyncio.create_task(guard.load("a" * 64))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    asked = [(event.operation, event.outcome) for event in told if isinstance(event, StoreAsked)]
    assert asked == [
        ("create", "ok"),
        ("create", "conflict"),
        ("load", "failed"),
        ("load", "timeout"),
        ("load", "cancelled"),
    ]
    assert all(event.store == "Troubled" and event.seconds >= 0 for event in told if isinstance(event, StoreAsked))


@pytest.fixture(params=["sqlite", "redis"])
def url(request, tmp_path):
    """The URL of a store that waits."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'sessions.sqlite3'}"
    else:
        with RedisServer() as server:
            yield server.url


@pytest.mark.parametrize("near_cache", [None, 10])
async def test_operations_are_timed_under_their_names(url, near_cache):
    """Whatever stands between, such as `near_cache`, each operation has the name of the store's method."""
    told = []

    class Hearing:
        hears_store = True

        def __call__(self, event):
            told.append(event)

    manager = SessionManager(secret_key="k" * 32, store=url, on_event=Hearing(), near_cache=near_cache)
    async with manager:
        life = Driver(manager)
        visit = life.anonymous()
        visit.session["user_id"] = 42
        await visit.commit()
        visit.session["x"] = 1
        await visit.commit()
        visit.session.rotate()
        await visit.commit()
        store = manager.registry.store
        assert await store.load(visit.key) is not None
        assert await store.touch(visit.key, 0)
        await store.scan(1)
        await store.purge(1)
        await store.discard_unreadable("42")
        await manager.sessions.revoke_all(42)
        await manager.sessions.end_all()
    asked = {event.operation for event in told if isinstance(event, StoreAsked)}
    everything = {"open", "load", "create", "update", "rotate", "touch", "delete", "of_user", "scan", "wipe"}
    assert asked - {"purge"} == everything | {"discard_unreadable"}


async def test_nothing_is_timed_where_nobody_hears():
    """The store is guarded as ever, and a plain subscriber is told of no operation."""
    told = []
    life = Driver(SessionConfig(secret_key="k" * 32, store="memory://", on_event=told.append))
    assert type(life.registry.store) is GuardedStore
    visit = life.anonymous()
    visit.session["x"] = 1
    await visit.commit()
    assert [type(event) for event in told] == [Created]
