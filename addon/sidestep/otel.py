"""Sends what is told of calls by OpenTelemetry's SDK: the only room that imports it, and only where it is asked for.

Settings are the SDK's own environment variables. What is sent leaves from threads of the SDK; what it cannot send is
dropped, and said in the log. Nothing global is set, and nothing is added to what goes to a provider.
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from sidestep.telemetry import Instrument, Key, Models, Span, Trace

NAME = "sidestep"
LAST_SECONDS = 2.0
"""How long the end waits for what is still to be sent."""


class Exporter:
    """State: the SDK's providers for the signals that are wanted, the models that measures tell apart."""

    def __init__(self, signals: frozenset[str], environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        """`say`: told, from any thread, what could not be sent."""
        _hush(say)
        resource = _resource(environ)
        self._models = Models()
        self._tracer: trace.Tracer | None = None
        self._ends: list[Callable[[], None]] = []
        self._counters: dict[Instrument, Counter] = {}
        self._histograms: dict[Instrument, Histogram] = {}
        if "traces" in signals:
            spans = TracerProvider(resource=resource, shutdown_on_exit=False)
            spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            self._tracer = spans.get_tracer(NAME)
            self._ends.append(spans.shutdown)
        if "metrics" in signals:
            readers = [PeriodicExportingMetricReader(OTLPMetricExporter())]
            measures = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
            self._ends.append(measures.shutdown)
            meter = measures.get_meter(NAME)
            for each in Instrument:
                name, unit, text, bounds = each.value
                if bounds:
                    self._histograms[each] = meter.create_histogram(
                        name, unit, text, explicit_bucket_boundaries_advisory=bounds
                    )
                else:
                    self._counters[each] = meter.create_counter(name, unit, text)

    def ended(self, told: Trace, headers: Iterable[tuple[str, str]], offset: float) -> None:
        """A call is over. `headers`: the app's, which may name the span that it belongs to. `offset`: what makes
        seconds since 1970 of the monotonic clock's."""
        if self._tracer is not None:
            fields = propagate.get_global_textmap().fields
            parent = propagate.extract({name: value for name, value in headers if name in fields})
            call = self._start(told.call, parent, offset)
            below = trace.set_span_in_context(call, parent)
            for attempt in told.attempts:
                _end(self._start(attempt, below, offset), attempt, offset)
            _end(call, told.call, offset)
        for measure in told.measures:
            attributes = self._models.told(measure.attributes)
            if (histogram := self._histograms.get(measure.instrument)) is not None:
                histogram.record(measure.value, attributes)
            elif (counter := self._counters.get(measure.instrument)) is not None:
                counter.add(measure.value, attributes)

    def _start(self, span: Span, context: object, offset: float) -> trace.Span:
        assert self._tracer is not None
        attributes = {**span.attributes, Key.ERROR: span.error} if span.error else span.attributes
        start = _ns(span.started, offset)
        return self._tracer.start_span(span.name, context, trace.SpanKind.CLIENT, attributes, start_time=start)  # type: ignore[arg-type]

    def close(self) -> None:
        """Send what is left, and do not wait long for it."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LAST_SECONDS)


def _end(span: trace.Span, told: Span, offset: float) -> None:
    if told.error:
        span.set_status(trace.StatusCode.ERROR)
    span.end(_ns(told.ended, offset))


def _ns(seconds: float, offset: float) -> int:
    return int((seconds + offset) * 1e9)


def _resource(environ: Mapping[str, str]) -> Resource:
    named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if named:
        return Resource.create({})
    try:
        version = importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:  # loaded from a folder
        version = ""
    return Resource.create({"service.name": NAME, **({"service.version": version} if version else {})})


class _Told(logging.Handler):
    """What the SDK logs: that is said in our words, for its own may quote addresses with keys in them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        what = "metrics" if "metric" in record.name else "spans" if "trace" in record.name else "spans or metrics"
        self._say(f"OpenTelemetry: {what} could not be sent as OTEL_EXPORTER_OTLP_ENDPOINT and the like say")


def _hush(say: Callable[[str], None]) -> None:
    """An error in mitmproxy's log while it starts would stop the start."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_Told(say)]
