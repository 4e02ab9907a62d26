"""Credentials stay put with all that there is switched on: workers that share a store, hedged calls, OpenTelemetry,
calls in envelopes, WebSockets that stand-ins take."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import io

from e2e.test_canary_names import ACCEPT, MARK, NONCE, Canaries
from support.collector import Collector
from support.fleet import Store
from support.provider import Behaviour, Provider
from support.proxy import by_hand
from support.raw import Wire
from support.settings import key_of, route, table
from support.waiting import until

Make = Callable[..., Provider]

TABLES = [
    table("circuit", {"failure_threshold": 3, "open_seconds": 0.2, "min_requests": 1000}),
    table("timeouts", {"first_byte": 1, "headers": 1, "first_content": 1, "idle": 1}),
    table("attempts", {"per_provider": 1, "backoff_seconds": 0.01, "wait_seconds": 0}),
    table("hedge", {"after_seconds": 0.2, "max_share": 1}),
]
FAILURES = [
    Behaviour(status=503),
    Behaviour(silent=True),
    Behaviour(status=429, headers={"retry-after": "1"}),
    Behaviour(status=401),
    Behaviour(cut_after=0),
    Behaviour(reset=True),
]
TURNS = [*((failure, Behaviour()) for failure in FAILURES), (FAILURES[0], FAILURES[0]), (Behaviour(), FAILURES[0])]
"""What own and its stand-in do."""
PROJECT = "GREBE"
"""In what an envelope says of the account, outside of the call: bodies are in flows, and go to nobody else."""
TAKES = Behaviour(
    raw=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    + ACCEPT.encode()
    + b"\r\n\r\n\x88\x02\x03\xe8"
)
SAID = {"messages": [{"role": "user", "content": "hi"}]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}


def calls(number: int) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """Path and body of one call of each kind; None: a WebSocket's handshake."""
    project = f"{PROJECT}-{number}-project"
    envelope = {"model": "gemini-2.5-pro", "project": project, "user_prompt_id": project, "request": CONTENTS}
    return {
        "chat": ("/v1/chat/completions", {"model": "gpt-4o", **SAID}),
        "streamed chat": ("/v1/chat/completions", {"model": "gpt-4o", "stream": True, **SAID}),
        "responses": ("/v1/responses", {"model": "gpt-4o", "stream": True, "input": "hi"}),
        "messages": ("/v1/messages", {"model": "claude-x", "max_tokens": 9, "stream": True, **SAID}),
        "gemini": ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", CONTENTS),
        "an envelope": ("/v1internal:generateContent", envelope),
        "a streamed envelope": ("/v1internal:streamGenerateContent?alt=sse", envelope),
        "a socket": ("/v1/responses", None),
        "a socket that talks": ("/v1/realtime?model=gpt-realtime", None),
    }


def sent(own: Provider, path: str, said: dict[str, Any] | None, canaries: Canaries, number: int) -> bytes:
    authority = f"{own.host}:{own.port}"
    trace = f"00-{number:032x}-{number:016x}-01"
    method, more = "GET" if said is None else "POST", "&" if "?" in path else "?"
    lines = [
        f"{method} http://{authority}{path}{more}{canaries.query} HTTP/1.1",
        f"Host: {authority}",
        *(line.decode() for line in canaries.lines),
        f"traceparent: {trace}",
        # Copies, under names that OpenTelemetry reads.
        f"tracestate: app={dict(canaries.fields)['X-Api-Key']}",
        f"baggage: who={MARK}-{number}-baggage",
    ]
    if said is None:
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        protocols = f"realtime, openai-insecure-api-key.{canaries.user}"
        lines += [f"Sec-WebSocket-Key: {NONCE}", f"Sec-WebSocket-Protocol: {protocols}"]
        return "\r\n".join([*lines, "", ""]).encode()
    body = json.dumps(said).encode()
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def around(stack: ExitStack, tmp_path: Path) -> tuple[Store, Collector]:
    return stack.enter_context(Store(tmp_path / "store")), stack.enter_context(Collector())


def test_no_credential_gets_anywhere(provider: Make, around: tuple[Store, Collector], tmp_path: Path) -> None:
    """Each place of each call of each kind holds a string of its own: after each failure it is in no stand-in, flow,
    log, page, file of a worker, span, measure or store."""
    store, collector = around
    own, a = provider("own"), provider("a")
    text = "\n".join(
        [
            *TABLES,
            table("fleet", {"url": store.url}),
            *(route(api, own, a, own=own, suffix=f"-{api}") for api in ("chat", "messages", "gemini")),
        ]
    )
    saved = tmp_path / "flows"
    quiet = ("-w", str(saved), "--set", "termlog_verbosity=debug", "--set", "flow_detail=4", "--workers", "2")
    number = 0
    with store.watched() as heard, by_hand("dump", tmp_path / "p", text, *quiet, **collector.env()) as m:
        m.may_complain = True  # mitmproxy's own view of a body that is no JSON
        m.wait_for_log(r"\[2\].*what happens is shown", 60)
        until(lambda: m.health()["fleet"]["state"] == "together", "the store is found")
        for mine, other in TURNS:
            for path, said in calls(number).values():
                number += 1
                own.default, a.default = mine, TAKES if said is None and other.status == 200 else other
                with Wire(m) as wire, suppress(EOFError, ConnectionError, ValueError, TimeoutError):
                    wire.send(sent(own, path, said, Canaries(number, lower=False), number)).answer()
        told = [m.page(path)[1] for path in ("/", "/health", "/metrics", "/state") for _ in range(2)]
        until(lambda: len(collector.calls()) > 40, "the calls are told")
        until(lambda: collector.total("sidestep.attempts")[1] > 40, "so are the measures")
        folder = next((tmp_path / "p" / "run").glob("**/*.json")).read_bytes()
        sent_to_store, held = heard(), store.contents()
    flows = b"".join((tmp_path / f"flows.{i}").read_bytes() for i in (1, 2))
    with (tmp_path / "flows.1").open("rb") as f:
        assert any("sidestep" in flow.metadata for flow in io.FlowReader(f).stream())
    assert " is asked beside it" in m.log
    assert own.count > number / 2
    places = {
        "the stand-in": b"\n".join(seen.raw_head + seen.body for seen in a.requests),
        "the log": m.log.encode(),
        "a flow": flows,
        "a page": b"\n".join(told),
        "the runtime folder": folder,
        "the store": sent_to_store + held,
        "the collector": b"\n".join(collector.bodies),
    }
    for where, text_there in places.items():
        assert text_there, where
        for mark in (MARK, *(() if where in ("the log", "a flow") else (PROJECT,))):
            at = text_there.find(mark.encode())
            assert at < 0, (where, text_there[max(0, at - 300) : at + 60])
        if where != "the stand-in":
            assert key_of("a").encode() not in text_there, where
    paths = {seen.path.partition("?")[0] for seen in a.requests}
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/realtime"} <= paths
    assert {f"/v1beta/models/gemini-2.5-pro:{op}" for op in ("generateContent", "streamGenerateContent")} <= paths
