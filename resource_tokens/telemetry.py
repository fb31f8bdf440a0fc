"""
Metrics and traces by OpenTelemetry (`pip install "resource-tokens[otel]"`).

What goes into an attribute is on a short list: the resource, the issuer, the grant type, and words
of this library and of the standards. No subject, destination, query, token or secret does, and the
number of different values is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from resource_tokens._httpx import http
from resource_tokens.events import TokenEvent
from resource_tokens.exceptions import AudienceMismatchError, OAuthError, TokenRequestError

__all__ = ["Telemetry"]

_Attributes = dict[str, str | bool | int]


class Telemetry:
    """
    Counts and times what a cache does, and traces its token requests: `telemetry=` of
    `ResourceTokenAuth` and `TokenCache`. One object can serve several of them.

    Args:
        meter_provider: Where the metrics go; the global one by default.
        tracer_provider: Where the spans go; the global one by default.
        clock: Seconds, to time with.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        meter = metrics.get_meter("resource_tokens", meter_provider=meter_provider)
        self._tracer = trace.get_tracer("resource_tokens", tracer_provider=tracer_provider)
        # The attributes of each pair of resource and issuer; those that come too late share one.
        self._named: dict[tuple[str, str], _Attributes] = {}
        self._events = meter.create_counter(
            "resource_tokens.events", "{event}", "What happened to tokens."
        )
        self._uses = meter.create_counter(
            "resource_tokens.uses", "{use}", "Whether hops were let carry a token."
        )
        self._waiters = meter.create_up_down_counter(
            "resource_tokens.waiters", "{caller}", "How many callers wait for a token now."
        )

        def seconds(
            name: str, description: str, buckets: Sequence[float] = _DURATIONS
        ) -> Histogram:
            return meter.create_histogram(
                f"resource_tokens.{name}.duration",
                "s",
                description,
                explicit_bucket_boundaries_advisory=buckets,
            )

        self._requests = seconds(
            "token_request", "How long it took to ask for a token, from discovery to verdict."
        )
        self._waits = seconds("wait", "How long callers waited because no token was at hand.")
        self._stale = seconds(
            "stale", "How long ago tokens were to be refreshed when they were presented.", _STALE
        )

    def event(self, event: TokenEvent) -> None:
        """
        Count an event.
        """
        attributes = self._of(event.resource, event.issuer) | {_EVENT: event.name}
        if event.reason:
            attributes[_REASON] = event.reason
        self._events.add(1, attributes)

    def use(self, decision: str, resource: str, issuer: str) -> None:
        """
        Count a use.
        """
        self._uses.add(1, self._of(resource, issuer) | {_DECISION: decision})

    def stale(self, resource: str, issuer: str, seconds: float) -> None:
        """
        Record how late a refresh is.
        """
        self._stale.record(seconds, self._of(resource, issuer))

    @contextmanager
    def waiting(self, resource: str, issuer: str) -> Iterator[None]:
        """
        Count who waits, and for how long.
        """
        attributes = self._of(resource, issuer)
        self._waiters.add(1, attributes)
        began = self._clock()
        try:
            yield
        finally:
            self._waiters.add(-1, attributes)
            self._waits.record(self._clock() - began, attributes)

    @contextmanager
    def asking(self, resource: str, issuer: str, grant_type: str, *, ahead: bool) -> Iterator[None]:
        """
        Trace and time a token request.
        """
        attributes = self._of(resource, issuer) | {_GRANT_TYPE: grant_type, _AHEAD: ahead}
        began = self._clock()
        with self._tracer.start_as_current_span(
            "resource_tokens.token_request",
            kind=SpanKind.CLIENT,
            attributes=attributes | _address(issuer),
            # Messages are for people, and not on the list.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            outcome: _Attributes = {_STATUS: 200}
            try:
                yield
            except BaseException as error:
                outcome = _outcome(error)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.set_attributes(outcome)
                self._requests.record(self._clock() - began, attributes | outcome)

    def _of(self, resource: str, issuer: str) -> _Attributes:
        # The secrets of a URL are in its query.
        pair = resource.partition("?")[0], issuer.partition("?")[0]
        known = self._named.get(pair)
        if known is None and len(self._named) < _MOST_PAIRS:
            known = self._named[pair] = {_RESOURCE: pair[0], _ISSUER: pair[1]}
        return known or _OTHERS


def _address(issuer: str) -> _Attributes:
    url = http.URL(issuer)
    port = url.port or {"https": 443, "http": 80}[url.scheme]
    return {"server.address": url.host, "server.port": port}


def _outcome(error: BaseException) -> _Attributes:
    """
    How a token request failed, in words of which there are few.
    """
    if isinstance(error, AudienceMismatchError):
        return {_STATUS: 200, _ERROR: "audience_mismatch"}
    if isinstance(error, OAuthError):
        code = error.error if error.error in _ERRORS else _OTHER
        return {_ERROR: code} | _status(error.status)
    if isinstance(error, TokenRequestError):
        refused = error.status is not None and error.status >= 400
        code = str(error.status) if refused else "no_answer" if error.status is None else "unusable"
        return {_ERROR: code} | _status(error.status)
    # Cancelled, interrupted, or a defect.
    return {_ERROR: "interrupted" if not isinstance(error, Exception) else _OTHER}


def _status(status: int | None) -> _Attributes:
    return {} if status is None else {_STATUS: status}


_RESOURCE = "resource_tokens.resource"
_ISSUER = "resource_tokens.issuer"
_EVENT = "resource_tokens.event"
_REASON = "resource_tokens.reason"
_DECISION = "resource_tokens.decision"
_GRANT_TYPE = "resource_tokens.grant_type"
_AHEAD = "resource_tokens.ahead"
# The semantic conventions of OpenTelemetry.
_ERROR = "error.type"
_STATUS = "http.response.status_code"
_OTHER = "_OTHER"

_MOST_PAIRS = 1024
_OTHERS: _Attributes = {_RESOURCE: _OTHER, _ISSUER: _OTHER}
# The buckets that the conventions advise for the duration of HTTP requests.
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_STALE = (1, 2.5, 5, 10, 30, 60, 120, 180, 240, 300)
# RFC 6749 5.2, RFC 8707 2, RFC 9449 5 and 8, OpenID Connect Core 3.1.2.6, RFC 6749 4.1.2.1: a
# server can write whatever it likes there.
_ERRORS = frozenset(
    {
        "access_denied",
        "consent_required",
        "interaction_required",
        "invalid_client",
        "invalid_dpop_proof",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "invalid_target",
        "login_required",
        "server_error",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "use_dpop_nonce",
    }
)
