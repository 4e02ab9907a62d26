"""A request pointed at another provider, with the copy of its body that this one takes."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http

from sidestep.calls.flows import Original, point_at
from sidestep.config import reading
from sidestep.routing.table import RouteTable

TEXT = """
[[providers]]
name = "own"
dialect = "anthropic"
base_url = "http://app.test"

[[providers]]
name = "other"
dialect = "anthropic"
base_url = "http://other.test"
api_key = "k"
issuer = "deepseek"

[[routes]]
intercept = ["http://app.test"]
providers = ["own", "other"]
"""
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
THOUGHT = {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "S"}, *USE["content"]]}


def pointed(body: Any, provider: int, *, leaves_out: bool, encoding: str = "") -> tuple[bytes, http.Request]:
    """The body as it was sent, and the request as it then goes to this provider."""
    sent = json.dumps(body).encode()
    sent = gzip.compress(sent) if encoding else sent
    request = http.Request.make("POST", "http://app.test/v1/messages", sent)
    request.headers["content-type"] = "application/json"
    if encoding:
        request.headers["content-encoding"] = encoding
    routes = RouteTable(reading.parse(TEXT, {}).routes)
    match = routes.match("POST", "http", "app.test", 80, "/v1/messages")
    assert match is not None
    original = Original.take(request)
    original.refresh(request)
    call = match.dialect.read("messages", match.tail, "", "application/json", json.dumps(body).encode())
    candidate = routes.candidates(match, call.model, trusted_client=True)[provider]
    if leaves_out:
        candidate = replace(candidate, leaves_out=frozenset(call.sealed), tier=2)
    point_at(request, original, match, call, candidate)
    return sent, request


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("provider", [0, 1])
def test_what_is_left_out(provider: int, encoding: str) -> None:
    """The copy goes out as its framing says, whatever the app compressed, to home as well as to a stand-in."""
    body = {"model": "m", "messages": [THOUGHT]}
    _, request = pointed(body, provider, leaves_out=True, encoding=encoding)
    content = request.data.content
    assert content is not None
    assert request.headers["content-length"] == str(len(content))
    assert "content-encoding" not in request.headers
    after = {"model": "m", "messages": [USE]}
    assert json.loads(content) == (after if provider == 0 else {**after, "thinking": {"type": "disabled"}})


def test_what_a_stand_in_demands() -> None:
    """A stand-in that demands thinking gets a copy of a call in which nothing is sealed, home gets what was sent."""
    body = {"model": "m", "messages": [USE]}
    sent, request = pointed(body, 0, leaves_out=False)
    assert request.data.content == sent
    _, request = pointed(body, 1, leaves_out=False)
    assert json.loads(request.data.content or b"") == {**body, "thinking": {"type": "disabled"}}
