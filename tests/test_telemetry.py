"""
Telemetry: what is counted, timed and traced, and that nothing else gets out that way.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from resource_tokens import (
    AudienceMismatchError,
    EgressBlockedError,
    OAuthError,
    ResourceTokenAuth,
    TokenCache,
    TokenRequestError,
    UnmappedDestinationError,
)
from resource_tokens.events import EventName
from resource_tokens.telemetry import Telemetry, _outcome
from tests.conftest import BILLING, CLIENT_SECRET, ORDERS, Caller, Clock, World

Attributes = dict[str, Any]


@dataclass
class Collected:
    """
    OpenTelemetry's SDK, with everything kept in memory.
    """

    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def __post_init__(self) -> None:
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def telemetry(self, **kwargs: Any) -> Telemetry:
        return Telemetry(self.meters, self.tracers, **kwargs)

    def points(self, name: str) -> list[Any]:
        return [
            point
            for resource in _some(self.reader.get_metrics_data(), "resource_metrics")
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"resource_tokens.{name}"
            for point in metric.data.data_points
        ]

    def counts(self, name: str, *attributes: str) -> dict[tuple[Any, ...], int]:
        """
        The values of a counter, or how often a histogram was recorded, by some attributes.
        """
        found: dict[tuple[Any, ...], int] = {}
        for point in self.points(name):
            key = tuple(point.attributes.get(attribute) for attribute in attributes)
            found[key] = found.get(key, 0) + getattr(point, "count", getattr(point, "value", 0))
        return found

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def text(self) -> str:
        """
        Everything that would leave the process.
        """
        data = self.reader.get_metrics_data()
        metrics = "" if data is None else data.to_json()
        return "\n".join([metrics, *(span.to_json() for span in self.spans())])


def _some(value: Any, name: str) -> list[Any]:
    return [] if value is None else list(getattr(value, name))


@pytest.fixture
def collected() -> Collected:
    return Collected()


OBSERVABILITY = Path(__file__).parent.parent / "examples" / "observability"
EVENT, REASON = "resource_tokens.event", "resource_tokens.reason"
DECISION, RESOURCE = "resource_tokens.decision", "resource_tokens.resource"


def live_through_a_day(world: World, auth: ResourceTokenAuth) -> None:
    """
    A token that is issued and shown, revoked and replaced, withheld from a redirect, and kept from
    being copied by hand; and a request to nobody.
    """
    world.orders.redirect("/away", f"{world.sink.url}?code=sesame")
    with httpx.Client(auth=auth, follow_redirects=True, trust_env=False) as client:
        client.get(world.orders.url)
        world.server.revoke(world.server.issued[0])
        client.get(world.orders.url)
        client.get(f"{world.orders.url}away")
        token = auth.token_for(world.orders.url).reveal()
        with pytest.raises(EgressBlockedError):
            client.get(world.billing.url, headers={"X-Copy": token})
        with pytest.raises(EgressBlockedError):
            client.get(world.orders.url, params={"t": token})
        with pytest.raises(UnmappedDestinationError):
            client.get("https://nobody.test/?code=sesame")


def test_everything_is_counted(world: World, collected: Collected) -> None:
    """
    P11: requests by outcome, refreshes, blocks by reason and refusals by resource are counters.
    """
    live_through_a_day(world, world.auth(telemetry=collected.telemetry()))

    assert {
        ("metadata_discovered", ORDERS, None): 1,
        ("token_issued", ORDERS, None): 1,
        ("token_issued", BILLING, None): 1,
        ("token_rejected", ORDERS, None): 1,
        ("token_refreshed", ORDERS, None): 1,
        ("token_withheld", ORDERS, "elsewhere"): 1,
        ("egress_blocked", BILLING, "elsewhere"): 1,
        ("egress_blocked", ORDERS, "in_url"): 1,
        ("unmapped_destination", "", None): 1,
    } == collected.counts("events", EVENT, RESOURCE, REASON)
    assert {
        # Twice more: what the first token was refused for, and what was redirected.
        ("shown", ORDERS): 4,
        ("withheld", ORDERS): 1,
        ("handed_over", ORDERS): 1,
        ("blocked", BILLING): 1,
        ("blocked", ORDERS): 1,
    } == collected.counts("uses", DECISION, RESOURCE)


def test_what_gets_out_is_on_a_short_list(world: World, collected: Collected) -> None:
    """
    P9, L10: no token, secret, query or destination is in any attribute of a metric or a span, and
    no attribute is there that this test does not name.
    """
    live_through_a_day(world, world.auth(telemetry=collected.telemetry()))

    text = collected.text()
    secrets = (*world.server.issued, CLIENT_SECRET, "sesame", world.sink.url, "nobody.test")
    assert [] == [secret for secret in secrets if secret in text]
    names = ("events", "uses", "token_request.duration", "wait.duration", "waiters")
    points = [point for name in names for point in collected.points(name)]
    assert {
        "error.type",
        "http.response.status_code",
        "resource_tokens.ahead",
        "resource_tokens.decision",
        "resource_tokens.event",
        "resource_tokens.grant_type",
        "resource_tokens.issuer",
        "resource_tokens.reason",
        "resource_tokens.resource",
    } >= {attribute for point in points for attribute in point.attributes}


def test_a_token_request_is_a_span(caller: Caller, world: World, collected: Collected) -> None:
    """
    A token request is a client span below the span of whoever waits for it, in every colour.
    """
    auth = world.auth(telemetry=collected.telemetry())
    tracer = collected.tracers.get_tracer("test")

    def blocking() -> None:
        with tracer.start_as_current_span("the caller"):
            auth.cache.get(ORDERS)

    async def asynchronous() -> None:
        with tracer.start_as_current_span("the caller"):
            await auth.cache.aget(ORDERS)

    caller.call(blocking if caller.blocking else asynchronous)

    asked, parent = collected.spans()
    host, port = world.server.issuer.removeprefix("http://").split(":")
    assert ("resource_tokens.token_request", SpanKind.CLIENT) == (asked.name, asked.kind)
    assert parent.context is not None
    assert asked.parent is not None
    assert parent.context.span_id == asked.parent.span_id
    assert {
        "http.response.status_code": 200,
        "resource_tokens.ahead": False,
        "resource_tokens.grant_type": "client_credentials",
        "resource_tokens.issuer": world.server.issuer,
        "resource_tokens.resource": ORDERS,
        "server.address": host,
        "server.port": int(port),
    } == dict(asked.attributes or {})
    assert StatusCode.UNSET == asked.status.status_code


def test_a_refusal_is_told_in_words_of_which_there_are_few(
    world: World, collected: Collected
) -> None:
    """
    P9, P10: the error code of a refusal is an attribute if the standards know it, and the server's
    own words never are.
    """
    auth = world.auth(telemetry=collected.telemetry())
    world.server.fail_next(1, 400, "invalid_target")
    world.server.fail_next(1, 400, "of-one's-own-" + "x" * 99)
    for _ in range(2):
        with pytest.raises(OAuthError):
            auth.cache.get(ORDERS)
        auth.cache.forget()

    first, second = collected.spans()
    assert "invalid_target" == (first.attributes or {})["error.type"]
    assert "_OTHER" == (second.attributes or {})["error.type"]
    assert (StatusCode.ERROR, None) == (first.status.status_code, first.status.description)
    assert () == first.events
    assert {("invalid_target", 400): 1, ("_OTHER", 400): 1} == collected.counts(
        "token_request.duration", "error.type", "http.response.status_code"
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (AudienceMismatchError("no", ORDERS), ("audience_mismatch", 200)),
        (TokenRequestError("no", ORDERS, 503), ("503", 503)),
        (TokenRequestError("no", ORDERS, 200), ("unusable", 200)),
        (TokenRequestError("no", ORDERS, None), ("no_answer", None)),
        (ValueError("a defect"), ("_OTHER", None)),
        (KeyboardInterrupt(), ("interrupted", None)),
    ],
)
def test_every_failure_has_a_word(error: BaseException, outcome: tuple[Any, Any]) -> None:
    """
    P10: whatever ends a token request, `error.type` is one of a few words.
    """
    told = _outcome(error)

    assert outcome == (told["error.type"], told.get("http.response.status_code"))


def test_those_who_wait_are_counted(world: World, collected: Collected) -> None:
    """
    P6: five that miss together are five that wait, and one token request; afterwards none waits.
    """
    auth = world.auth(telemetry=collected.telemetry())
    world.server.delay = timedelta(milliseconds=50)
    with ThreadPoolExecutor(5) as pool:
        tokens = list(pool.map(auth.cache.get, [ORDERS] * 5))

    assert 1 == len({token.reveal() for token in tokens})
    assert 1 == len(world.server.token_requests)
    assert 1 <= collected.counts("wait.duration", RESOURCE)[(ORDERS,)] <= 5
    assert {(ORDERS,): 0} == collected.counts("waiters", RESOURCE)


def test_a_token_at_hand_is_not_waited_for(world: World, collected: Collected) -> None:
    """
    Who finds a token in the cache is in no histogram: they tell of those who did not.
    """
    auth = world.auth(telemetry=collected.telemetry())
    for _ in range(10):
        auth.cache.get(ORDERS)

    assert {(ORDERS,): 1} == collected.counts("wait.duration", RESOURCE)
    assert {(ORDERS,): 1} == collected.counts("token_request.duration", RESOURCE)


def test_a_late_refresh_is_seen(world: World, collected: Collected, clock: Clock) -> None:
    """
    P7: while no refresh succeeds, the token at hand is presented, and how long it is overdue grows.
    """
    world.server.lifetime = timedelta(hours=1)
    auth = world.auth(telemetry=collected.telemetry(), clock=clock)
    auth.cache.get(ORDERS)
    auth.close()
    # The refresh is due between 3240 and 3300 s; it is late by 200 to 260 s then.
    clock.advance(3500)
    auth.cache.get(ORDERS)

    (late,) = collected.points("stale.duration")
    assert {RESOURCE: ORDERS, "resource_tokens.issuer": world.server.issuer} == late.attributes
    assert 1 == late.count
    assert 199 < late.sum < 261


def test_the_number_of_series_is_bounded(world: World, collected: Collected) -> None:
    """
    P10: a program that names resources without end does not make series without end, and what is
    in the query of a name is in none of them.
    """
    telemetry = collected.telemetry()
    for number in range(3000):
        telemetry.use("shown", f"urn:x:{number % 1500}?code=sesame", world.server.issuer)

    counts = collected.counts("uses", RESOURCE)
    assert 1025 == len(counts)
    assert 2 * (1500 - 1024) == counts["_OTHER",]
    assert "sesame" not in collected.text()


def test_durations_are_by_the_clock_given(collected: Collected, clock: Clock) -> None:
    """
    A request that lasts two seconds is in the bucket of two seconds.
    """
    telemetry = collected.telemetry(clock=clock)
    with telemetry.asking(ORDERS, "https://[::1]/t", "client_credentials", ahead=True):
        clock.advance(2)

    (point,) = collected.points("token_request.duration")
    assert 2 == point.sum
    (span,) = collected.spans()
    told = span.attributes or {}
    assert ("::1", 443) == (told["server.address"], told["server.port"])


def test_without_an_sdk_nothing_happens(world: World) -> None:
    """
    The API alone counts nothing and costs no token.
    """
    auth = world.auth(telemetry=Telemetry())

    assert ORDERS == auth.cache.get(ORDERS).resource


def test_one_object_serves_several_caches(world: World, collected: Collected) -> None:
    """
    What several caches do is told by one `Telemetry`.
    """
    telemetry = collected.telemetry()
    for _ in range(2):
        cache = TokenCache(world.authorization_server, world.client_auth, telemetry=telemetry)
        cache.get(ORDERS)

    assert 2 == collected.counts("events", EVENT)["token_issued",]


@pytest.fixture
def scraped(world: World, clock: Clock) -> set[tuple[str, str]]:
    """
    Each name of a metric with each of its labels, as Prometheus sees them, of a program in which
    everything happens.
    """
    registry = CollectorRegistry()
    meters = MeterProvider(metric_readers=[PrometheusMetricReader(registry=registry)])
    try:
        auth = world.auth(telemetry=Telemetry(meters), clock=clock)
        live_through_a_day(world, auth)
        world.server.fail_next(1, 400, "invalid_target")
        with pytest.raises(OAuthError):
            auth.scoped("other").token_for(world.orders.url)
        # So that the token at hand stays the old one.
        auth.close()
        clock.advance(3500)
        auth.cache.get(ORDERS)
        return {
            (sample.name, label)
            for metric in registry.collect()
            for sample in metric.samples
            for label in ("", *sample.labels)
        }
    finally:
        meters.shutdown()


def expressions() -> list[str]:
    """
    Every query of the dashboard and of the alert rules.
    """
    dashboard = json.loads((OBSERVABILITY / "dashboard.json").read_text("utf-8"))
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text("utf-8"))
    return [
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *(v["definition"] for v in dashboard["templating"]["list"] if "definition" in v),
        *(rule["expr"] for group in rules["groups"] for rule in group["rules"]),
    ]


def test_the_queries_are_of_metrics_that_exist(scraped: set[tuple[str, str]]) -> None:
    """
    Every metric and every label in the dashboard and in the alert rules is one that a program with
    `Telemetry` has, and every event that they name is one that the library reports.
    """
    unknown: set[tuple[str, str]] = set()
    events: set[str] = set()
    for expression in expressions():
        # Labels are named in `{...}`, in `by (...)`, and as the second argument of label_values.
        with_labels = r"\{[^}]*\}|by \([^)]*\)|, \w+\)"
        (metric,) = re.findall(r"resource_tokens_\w+", re.sub(with_labels, "", expression))
        within = " ".join(re.findall(with_labels, expression))
        labels = re.findall(r"\w+(?=!?=)|(?<=, )\w+|(?<=\()\w+", within)
        unknown |= {(metric, label) for label in ("", *labels)} - scraped
        for names in re.findall(r'resource_tokens_event=~?"([^"]*)"', expression):
            events |= set(names.split("|"))

    assert set() == unknown
    assert set() == events - set(get_args(EventName))
    assert 6 < len(events)


def test_the_dashboard_is_whole() -> None:
    """
    The panels have numbers of their own, do not overlap, and use the variables that there are.
    """
    text = (OBSERVABILITY / "dashboard.json").read_text("utf-8")
    dashboard = json.loads(text)
    panels = dashboard["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len(panels) == len({panel["id"] for panel in panels})
    assert len(panels) == len({(place["x"], place["y"]) for place in places})
    assert {24} == {
        sum(place["w"] for place in places if place["y"] == y) for y in {p["y"] for p in places}
    }
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__range", "__rate_interval", "__all"}
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == used
