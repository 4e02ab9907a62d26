"""Every row of the outcome table, whole and streamed, in four APIs: what the app saw and what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from support.calls import APIS, DIALECT, Client
from support.provider import Behaviour, Provider, text_of
from support.proxy import Mitmdump
from support.settings import inline, route, table

Start = Callable[..., Mitmdump]

TABLES = [table("circuit", {"failure_threshold": 100}), table("attempts", {"backoff_seconds": 0.02})]
IMPATIENT = inline(timeouts={"first_byte": 0.5, "headers": 0.5, "first_content": 0.7, "idle": 0.6})
"""With a provider that lets its client wait."""


@dataclass(frozen=True)
class Row:
    """A first provider's behaviour, and what must come of it while the second is healthy."""

    name: str
    behaviour: Behaviour
    tries: int
    trail: str
    failures: int
    cooldown: str | None = None
    only: bool | None = None
    """Only whole (False), only streamed (True), both (None)."""


ROWS = [
    Row("500", Behaviour(status=500), 2, "a:500, a:500, b:200", 2),
    Row("502", Behaviour(status=502), 2, "a:502, a:502, b:200", 2),
    Row("503", Behaviour(status=503), 2, "a:503, a:503, b:200", 2),
    Row("504", Behaviour(status=504), 2, "a:504, a:504, b:200", 2),
    Row("520", Behaviour(status=520), 2, "a:520, a:520, b:200", 2),
    Row("529", Behaviour(status=529), 2, "a:529, a:529, b:200", 2),
    Row("reset", Behaviour(reset=True), 2, "a:connect, a:connect, b:200", 2),
    Row("silent", Behaviour(silent=True), 1, "a:timeout, b:200", 1),
    Row("headers, then silent", Behaviour(headers_then_silent=True), 1, "a:timeout, b:200", 1),
    Row("pings only", Behaviour(pings_only=True), 1, "a:timeout, b:200", 1, only=True),
    Row("cut before content", Behaviour(cut_after=0), 1, "a:bad_response, b:200", 1),
    Row("ended before content", Behaviour(end_after=0), 1, "a:bad_response, b:200", 1, only=True),
    Row("error before content", Behaviour(error_after=0), 1, "a:bad_response, b:200", 1, only=True),
    Row(
        "html",
        Behaviour(body=b"<html><body>hello</body></html>", headers={"content-type": "text/html"}),
        1,
        "a:bad_response, b:200",
        1,
    ),
    Row("empty", Behaviour(body=b""), 1, "a:bad_response, b:200", 1),
    Row("429 without", Behaviour(status=429), 1, "a:429, b:200", 0, "rate_limit"),
    Row("429 for long", Behaviour(status=429, headers={"retry-after": "60"}), 1, "a:429, b:200", 0, "rate_limit"),
    Row("429 quota", Behaviour(status=429, code="insufficient_quota"), 1, "a:429, b:200", 0, "quota"),
    Row("402", Behaviour(status=402), 1, "a:402, b:200", 0, "quota"),
    Row("401", Behaviour(status=401), 1, "a:401, b:200", 0, "credential"),
    Row("403", Behaviour(status=403), 1, "a:403, b:200", 0, "credential"),
    Row(
        "404 model",
        Behaviour(status=404, code="model_not_found", message="The model `m` does not exist"),
        1,
        "a:404, b:200",
        0,
    ),
    Row("408", Behaviour(status=408), 1, "a:408, b:200", 0),
    Row("409", Behaviour(status=409), 1, "a:409, b:200", 0),
]


CASES = [(row, stream) for row in ROWS for stream in (False, True) if row.only is None or row.only is stream]


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("api", APIS)
def test_a_failure_that_another_provider_can_answer_reaches_no_app(
    api: str, http2: bool, proxy: Start, subtests: pytest.Subtests
) -> None:
    """With a healthy second provider the app sees one good answer, whatever the first one does before content."""
    dialect = DIALECT[api]
    scheme = "https" if http2 else "http"
    path = "/v1" if dialect == "openai" else ""
    with Provider("a") as a, Provider("b") as b:
        hosts = [f"{scheme}://row{i}.test{path}" for i in range(len(CASES))]
        routes = [
            route(api, a, b, intercept=host, suffix=str(i), extra={"a": IMPATIENT if row.behaviour.waits else ""})
            for i, (host, (row, _)) in enumerate(zip(hosts, CASES, strict=True))
        ]
        m = proxy("\n".join(TABLES + routes))
        for i, (row, stream) in enumerate(CASES):
            with subtests.test(row=row.name, stream=stream), Client(m, {dialect: hosts[i]}, http2=http2) as app:
                a.requests.clear()
                b.requests.clear()
                a.default = row.behaviour
                result = app.call(api, stream=stream)
                assert result.error is None
                assert result.text == text_of("b", Behaviour())
                assert result.version in (None, "HTTP/2" if http2 else "HTTP/1.1")
                trail = (result.attempts or "").replace(f"a{i}:", "a:").replace(f"b{i}:", "b:")
                assert trail == row.trail
                assert result.provider == f"b{i}"
                assert a.count == row.tries
                assert b.count == 1
                health = m.health()["providers"]
                status = health[f"a{i}"]
                assert status["failures"] == row.failures
                assert (status["cooldown"] or {}).get("reason") == row.cooldown
                assert status["permits_out"] == 0
                assert health[f"b{i}"]["successes"] == 1
