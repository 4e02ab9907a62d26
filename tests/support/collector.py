"""An OpenTelemetry collector: takes spans and measures over OTLP/HTTP and keeps them, decoded."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass
class Span:
    name: str
    trace_id: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool
    resource: dict[str, Any]


class Collector:
    """Use as a context manager. State: the spans that came, the latest measures, the paths that were asked for
    and what came there."""

    def __init__(self, status: int = 200) -> None:
        self.spans: list[Span] = []
        self.measures: dict[str, dict[tuple[tuple[str, Any], ...], tuple[int, float]]] = {}
        """By name and attributes: how many there were (of a counter: none), and their sum."""
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def env(self, **more: str) -> dict[str, str]:
        """What switches the export on, soon after each call."""
        soon = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, **soon, **more}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        self.bodies.append(body)
        if path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._take_measures(ExportMetricsServiceRequest.FromString(body))

    def _take_spans(self, told: ExportTraceServiceRequest) -> None:
        for group in told.resource_spans:
            resource = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                for s in scope.spans:
                    ids = s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex()
                    times = s.start_time_unix_nano, s.end_time_unix_nano
                    failed = s.status.code == s.status.STATUS_CODE_ERROR
                    self.spans.append(Span(s.name, *ids, *times, _attributes(s.attributes), failed, resource))

    def _take_measures(self, told: ExportMetricsServiceRequest) -> None:
        for group in told.resource_metrics:
            for scope in group.scope_metrics:
                for m in scope.metrics:
                    found: dict[tuple[tuple[str, Any], ...], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
                    for h in m.histogram.data_points:
                        found[_key(h.attributes)] = (h.count, h.sum)
                    for n in m.sum.data_points:
                        found[_key(n.attributes)] = (0, n.as_double or n.as_int)
                    self.measures[m.name] = dict(found)

    def calls(self) -> list[Span]:
        """The spans of calls, in the order in which they ended."""
        return [s for s in self.spans if "gen_ai.operation.name" in s.attributes]

    def attempts(self, call: Span) -> list[Span]:
        """The spans below it, in the order in which they were begun."""
        return sorted((s for s in self.spans if s.parent == call.id), key=lambda s: s.start)

    def total(self, name: str, **attributes: Any) -> tuple[int, float]:
        """How many, and the sum, of all that has these attributes (`_` for a dot)."""
        count, total = 0, 0.0
        for key, (n, value) in self.measures.get(name, {}).items():
            have = {k.replace(".", "_"): v for k, v in key}
            if all(have.get(k) == v for k, v in attributes.items()):
                count, total = count + n, total + value
        return count, total


def _key(pairs: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(_attributes(pairs).items()))


def _attributes(pairs: list[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(v) for v in value.array_value.values)
    return None if kind is None else getattr(value, kind)
