"""What OpenTelemetry is told of a call that is over: a span, one below it for each attempt, and measures.

Pure: no clock, no I/O, no SDK. Names, statuses, times and counts; never a key, a prompt, a body or a query.

The call's span is the only one that is a GenAI operation, and has usage and cost of all its attempts: whoever adds up
spans adds up each call once, however many providers were asked.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sidestep.breaker.outcomes import Kind, Result
from sidestep.config.settings import Provider
from sidestep.routing.engine import Attempt
from sidestep.routing.exchange import Exchange

MODEL_LENGTH = 80
"""Characters of a model's name, which apps choose."""
OTHER_MODEL = "_OTHER"
MODELS = 100
"""Different models that measures tell apart: each makes time series of its own."""


class Key(enum.StrEnum):
    """Attributes: the semantic conventions' where they have one (GenAI, general), else our own."""

    OPERATION = "gen_ai.operation.name"
    PROVIDER_KIND = "gen_ai.provider.name"
    REQUEST_MODEL = "gen_ai.request.model"
    STREAM = "gen_ai.request.stream"
    FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
    INPUT = "gen_ai.usage.input_tokens"
    OUTPUT = "gen_ai.usage.output_tokens"
    CACHED = "gen_ai.usage.cache_read.input_tokens"
    COUNTED = "gen_ai.token.type"
    ADDRESS = "server.address"
    PORT = "server.port"
    STATUS = "http.response.status_code"
    ERROR = "error.type"
    COST = "sidestep.cost_usd"
    REQUEST_ID = "sidestep.request_id"
    ROUTE = "sidestep.route"
    RESULT = "sidestep.result"
    PROVIDER = "sidestep.provider"
    REFUSED = "sidestep.refused"
    OUTCOME = "sidestep.outcome"
    REASON = "sidestep.reason"
    HEDGE = "sidestep.hedge"
    HEADERS_AFTER = "sidestep.headers_seconds"
    CONTENT_AFTER = "sidestep.first_content_seconds"


class Instrument(enum.Enum):
    """A measure's name, its unit, what it is, and its bounds (none: a counter)."""

    DURATION = (
        "gen_ai.client.operation.duration",
        "s",
        "GenAI operation duration.",
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    )
    FIRST_CHUNK = (
        "gen_ai.client.operation.time_to_first_chunk",
        "s",
        "Time to receive the first chunk of a streamed answer.",
        (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    )
    TOKENS = (
        "gen_ai.client.token.usage",
        "{token}",
        "Number of input and output tokens used.",
        tuple(float(4**i) for i in range(14)),
    )
    ATTEMPTS = ("sidestep.attempts", "{attempt}", "Attempts by provider, outcome and reason.", ())
    COST = ("sidestep.cost", "USD", "Cost by the price list.", ())


Value = str | bool | int | float | tuple[str, ...]
Attributes = dict[str, Value]

_OPERATIONS = {
    "chat/completions": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "fim/completions": "text_completion",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "generateContent": "generate_content",
    "streamGenerateContent": "generate_content",
}
"""The conventions' words for what was asked; any other operation keeps its own."""
_HOSTS = {
    "api.openai.com": "openai",
    "chatgpt.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "amazonaws.com": "aws.bedrock",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
}
"""The conventions' words for who answers, by the end of its host; any other provider has its name in the settings."""


@dataclass(frozen=True, slots=True)
class Span:
    """Times are seconds of the monotonic clock. `error`: the class of what went wrong, empty where nothing did."""

    name: str
    started: float
    ended: float
    attributes: Attributes
    error: str = ""


class Measure(NamedTuple):
    instrument: Instrument
    value: float
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Trace:
    """A call, its attempts, and what is measured of them."""

    call: Span
    attempts: tuple[Span, ...]
    measures: tuple[Measure, ...]


def wanted(environ: Mapping[str, str]) -> frozenset[str]:
    """Which of `traces` and `metrics` OpenTelemetry's own variables ask for; none of them where none is set."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return frozenset()
    found = set()
    for signal in ("traces", "metrics"):
        name = signal.upper()
        chosen = [e.strip() for e in environ.get(f"OTEL_{name}_EXPORTER", "").split(",") if e.strip()]
        places = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")
        if "otlp" in chosen or (not chosen and any(environ.get(place) for place in places)):
            found.add(signal)
    return frozenset(found)


def provider_kind(provider: Provider) -> str:
    """The conventions' word for who answers there."""
    host = provider.base_url.host
    return next((kind for end, kind in _HOSTS.items() if host == end or host.endswith(f".{end}")), provider.name)


def trace(exchange: Exchange, answer: Attempt | None, came: Result, status: int | None, now: float) -> Trace:
    """`status`: what the app got."""
    call = exchange.call
    operation = _OPERATIONS.get(call.operation, call.operation)
    model = _name(call.model)
    about: Attributes = {Key.OPERATION: operation, **({Key.REQUEST_MODEL: model} if model else {})}
    error = _error_of_call(exchange, answer, came, status)
    told: Attributes = {
        **about,
        Key.STREAM: call.stream,
        Key.REQUEST_ID: exchange.id,
        Key.ROUTE: exchange.match.route.name,
        Key.RESULT: str(came),
    }
    if answer is not None:
        told |= _place(answer.candidate.provider) | {Key.PROVIDER: answer.candidate.provider.name}
    if status is not None:
        told[Key.STATUS] = status
    if exchange.refused:
        told[Key.REFUSED] = tuple(f"{r.provider}: {r.reason}" for r in exchange.refused)
    if used := [a.usage for a in exchange.attempts if a.usage is not None]:
        told[Key.INPUT] = sum(u.input for u in used)
        told[Key.OUTPUT] = sum(u.output for u in used)
        if cached := sum(u.cached for u in used):
            told[Key.CACHED] = cached
    if costs := [a.cost for a in exchange.attempts if a.cost is not None]:
        told[Key.COST] = sum(costs)
    measures = [m for a in exchange.attempts for m in _measures(a, about)]
    spent: Attributes = {**about, **({Key.ERROR: error} if error else {})}
    if answer is not None:
        spent |= _place(answer.candidate.provider)
        if call.stream and answer.content_at is not None:
            first = answer.content_at - exchange.arrived
            told[Key.FIRST_CHUNK] = first
            measures.append(Measure(Instrument.FIRST_CHUNK, first, spent))
    if not call.is_websocket:  # which lasts as long as the app likes
        measures.append(Measure(Instrument.DURATION, now - exchange.arrived, spent))
    name = f"{operation} {model}" if model else operation
    attempts = tuple(_attempt(a, now) for a in exchange.attempts)
    return Trace(Span(name, exchange.arrived, now, told, error), attempts, tuple(measures))


def _error_of_call(exchange: Exchange, answer: Attempt | None, came: Result, status: int | None) -> str:
    if came is Result.LEFT:
        return ""
    if came is Result.FAILED:
        last = answer or (exchange.attempts[-1] if exchange.attempts else None)
        return str(status or "refused") if last is None or last.outcome is None else last.outcome.label
    return str(status) if status is not None and status >= 400 else ""


def _attempt(attempt: Attempt, now: float) -> Span:
    provider, outcome = attempt.candidate.provider, attempt.outcome
    told: Attributes = {Key.PROVIDER: provider.name, **_place(provider), Key.HEDGE: attempt.beside is not None}
    if model := _name(attempt.candidate.model):
        told[Key.REQUEST_MODEL] = model
    if attempt.status is not None:
        told[Key.STATUS] = attempt.status
    for key, at in ((Key.HEADERS_AFTER, attempt.headers_at), (Key.CONTENT_AFTER, attempt.content_at)):
        if at is not None:
            told[key] = at - attempt.started
    error = ""
    if outcome is not None:
        told |= {Key.OUTCOME: str(outcome.kind), Key.REASON: outcome.reason}
        refused = attempt.status is not None and attempt.status >= 400
        error = outcome.label if refused or outcome.kind in (Kind.FAILURE, Kind.COOLDOWN) else ""
    ended = now if attempt.ended_at is None else attempt.ended_at
    return Span(f"attempt {provider.name}", attempt.started, max(ended, attempt.started), told, error)


def _measures(attempt: Attempt, about: Attributes) -> list[Measure]:
    provider, outcome = attempt.candidate.provider, attempt.outcome
    found = []
    if outcome is not None:
        how: Attributes = {
            Key.PROVIDER: provider.name,
            Key.OUTCOME: str(outcome.kind),
            Key.REASON: outcome.reason,
        }
        found.append(Measure(Instrument.ATTEMPTS, 1, how))
    where = {**about, **_place(provider)}
    if attempt.usage is not None:
        for kind, tokens in (("input", attempt.usage.input), ("output", attempt.usage.output)):
            found.append(Measure(Instrument.TOKENS, tokens, {**where, Key.COUNTED: kind}))
    if attempt.cost is not None:
        found.append(Measure(Instrument.COST, attempt.cost, {Key.PROVIDER: provider.name}))
    return found


def _place(provider: Provider) -> Attributes:
    base = provider.base_url
    return {Key.PROVIDER_KIND: provider_kind(provider), Key.ADDRESS: base.host, Key.PORT: base.port}


def _name(model: str | None) -> str:
    return (model or "")[:MODEL_LENGTH]


class Models:
    """State: the models that measures tell apart."""

    def __init__(self) -> None:
        self._known: set[Value] = set()

    def told(self, attributes: Attributes) -> Attributes:
        """The attributes of a measure, without names beyond the first hundred."""
        model = attributes.get(Key.REQUEST_MODEL)
        if model is None or model in self._known:
            return attributes
        if len(self._known) < MODELS:
            self._known.add(model)
            return attributes
        return {**attributes, Key.REQUEST_MODEL: OTHER_MODEL}
