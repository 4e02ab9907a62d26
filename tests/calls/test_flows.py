"""A request pointed at another provider, with the copy of its body that this one takes."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from mitmproxy import http

from sidestep.calls.flows import Original, outgoing, point_at
from sidestep.config import reading
from sidestep.forwarding import AllowList
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
    original = Original.take(request, AllowList(match.dialect.name))
    original.refresh(request, strips=True)
    call = match.dialect.read("messages", match.tail, "", "application/json", json.dumps(body).encode())
    candidate = routes.candidates(match, call.model)[provider]
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


AZURE = """
[[providers]]
name = "east"
dialect = "openai"
base_url = "http://east.test/openai/deployments/gpt-4o?api-version=2024-10-21"

[[providers]]
name = "west"
dialect = "openai"
base_url = "http://west.test/openai/deployments/my-4o?api-version=2025-01-01"
api_key = "k"

[[providers]]
name = "plain"
dialect = "openai"
base_url = "http://plain.test/v1"
api_key = "k"

[[routes]]
intercept = ["http://east.test/openai/deployments/gpt-4o"]
providers = ["east", "west", "plain"]
"""


@pytest.mark.parametrize(
    ("provider", "query", "path"),
    [
        (0, "?api-version=1&beta", "/openai/deployments/gpt-4o/chat/completions?api-version=1&beta"),
        (0, "", "/openai/deployments/gpt-4o/chat/completions"),
        (1, "?beta&api-version=1", "/openai/deployments/my-4o/chat/completions?api-version=2025-01-01&beta"),
        (1, "", "/openai/deployments/my-4o/chat/completions?api-version=2025-01-01"),
        (2, "", "/v1/chat/completions"),
        (2, "?beta", "/v1/chat/completions?beta"),
    ],
)
def test_a_base_with_a_query(provider: int, query: str, path: str) -> None:
    """A stand-in gets its own query beside the call's; who the app addressed gets what the app sent."""
    request = http.Request.make(
        "POST", f"http://east.test/openai/deployments/gpt-4o/chat/completions{query}", b'{"model": "m"}'
    )
    routes = RouteTable(reading.parse(AZURE, {}).routes)
    match = routes.match("POST", "http", "east.test", 80, request.path)
    assert match is not None
    assert match.addressed == "east"
    original = Original.take(request, AllowList(match.dialect.name))
    original.refresh(request, strips=True)
    call = match.read("", "application/json", request.content or b"")
    candidate = routes.candidates(match, call.model)[provider]
    assert candidate.own is (provider == 0)
    point_at(request, original, match, call, candidate)
    assert request.path == path


FROM_AZURE = """
[[providers]]
name = "east"
dialect = "openai"
base_url = "http://east.test/openai"

[[providers]]
name = "west"
dialect = "openai"
base_url = "http://west.test/openai"
api_key = "k"
models = { "my-4o" = "west-4o" }

[[providers]]
name = "one"
dialect = "openai"
base_url = "http://one.test/openai/deployments/the-one?api-version=2025-01-01"
api_key = "k"

[[providers]]
name = "plain"
dialect = "openai"
base_url = "http://plain.test/v1"
api_key = "k"
models = { "my-*" = "gpt-*" }

[[routes]]
intercept = ["http://east.test/openai"]
providers = ["east", "west", "one", "plain"]
"""
AT_EAST = "/openai/deployments/my-4o/chat/completions"


@pytest.mark.parametrize(
    ("provider", "path", "model"),
    [
        ("east", AT_EAST + "?api-version=2024-10-21", None),
        ("west", AT_EAST.replace("my-4o", "west-4o") + "?api-version=2024-10-21", "west-4o"),
        ("one", AT_EAST.replace("my-4o", "the-one") + "?api-version=2025-01-01", "my-4o"),
        ("plain", "/v1/chat/completions", "gpt-4o"),
    ],
)
def test_from_a_deployment_at_azure(provider: str, path: str, model: str | None) -> None:
    """The deployment names the model: a stand-in of the same layout gets its own deployment in the path, any other the
    model in the body."""
    body = b'{"messages": [1.0]}'
    request = http.Request.make("POST", f"http://east.test{AT_EAST}?api-version=2024-10-21", body)
    routes = RouteTable(reading.parse(FROM_AZURE, {}).routes)
    match = routes.match("POST", "http", "east.test", 80, request.path)
    assert match is not None
    original = Original.take(request, AllowList(match.dialect.name))
    original.refresh(request, strips=True)
    call = match.read("", "application/json", body)
    candidates = routes.candidates(match, call.model)
    point_at(request, original, match, call, next(c for c in candidates if c.provider.name == provider))
    assert request.path == path
    if model is None:
        assert request.raw_content == body
    else:
        assert json.loads(request.raw_content or b"") == {"messages": [1.0], "model": model}
        assert request.headers["content-length"] == str(len(request.raw_content or b""))


@pytest.mark.parametrize("strips", [True, False])
def test_what_is_only_looked_on_keeps_its_credential(strips: bool) -> None:
    """Where Sidestep does not act, the flow is the app's, credential included."""
    told = ((b"X-Api-Key", b"sk-app"), (b"Accept", b"*/*"))
    request = http.Request.make("POST", "http://app.test/v1/messages", b"{}", told)
    fields = request.data.headers.fields
    original = Original.take(request, AllowList("anthropic"))
    original.refresh(request, strips=strips)
    assert ("x-api-key" in request.headers) is not strips
    assert original.whole == fields
    assert original.fingerprint() != ""


KEYED = """
[[providers]]
name = "own"
dialect = "openai"
base_url = "http://app.test/v1"
api_key = "our-own-key"

[[providers]]
name = "other"
dialect = "openai"
base_url = "http://other.test/v1"
api_key = "our-other-key"

[[routes]]
intercept = ["http://app.test/v1"]
providers = ["own", "other"]
"""
FIELDS = (
    (b"Host", b"app.test"),
    (b"X-First", b"1"),
    (b"Authorization", b"Bearer the-app-s-own"),
    (b"Expect", b"100-continue"),
    (b"User-Agent", b"app"),
    (b"X-Api-Key", b"the-app-s-other"),
    (b"X-Copy", b"the-app-s-own"),
    (b"Accept-Language", b"the-app-s-own"),
    (b"Idempotency-Key", b"once"),
)


def taken(fields: tuple[tuple[bytes, bytes], ...] = FIELDS, text: str = KEYED) -> tuple[http.Request, Original, Any]:
    """A request as it is after its hooks, its original, and what makes it the one for a provider, as it is sent."""
    request = http.Request.make("POST", "http://app.test/v1/chat/completions?key=k&who=me&beta", b'{"model": "m"}')
    request.data.headers.fields = fields
    routes = RouteTable(reading.parse(text, {}).routes)
    match = routes.match("POST", "http", "app.test", 80, "/v1/chat/completions")
    assert match is not None
    original = Original.take(request, AllowList("openai"))
    original.strip(request)
    request.headers.pop("expect", None)  # as mitmproxy does
    original.refresh(request, strips=True)
    call = match.dialect.read(match.operation, match.tail, "", "", b'{"model": "m"}')
    candidates = {c.provider.name: c for c in routes.candidates(match, "m")}

    def sent(name: str) -> http.Request:
        point_at(request, original, match, call, candidates[name])
        return outgoing(request, original, candidates[name], to_http1=False, to_proxy=False)

    return request, original, sent


def test_the_flow_bears_what_any_provider_may_see() -> None:
    """No credential, no copy of one, and no name that is not known."""
    request, _, _ = taken()
    assert [name for name, _ in request.headers.fields] == [b"Host", b"User-Agent"]
    assert request.path == "/v1/chat/completions?beta"


def test_the_app_s_own_host_gets_all_that_was_sent() -> None:
    """In its order and case; but for `Expect`, which mitmproxy answers."""
    _, _, sent = taken(text=KEYED.replace('api_key = "our-own-key"\n', ""))
    whole = sent("own")
    assert whole.headers.fields == tuple(f for f in FIELDS if f[0] != b"Expect")
    assert whole.path == "/v1/chat/completions?key=k&who=me&beta"


def test_the_app_s_own_host_with_a_key_of_ours() -> None:
    """Everything that is no credential of the app's, and ours in its place."""
    _, _, sent = taken()
    whole = sent("own")
    names = [b"Host", b"X-First", b"User-Agent", b"X-Copy", b"Accept-Language", b"Idempotency-Key", b"authorization"]
    assert sorted(name for name, _ in whole.headers.fields) == sorted(names)
    assert whole.headers["authorization"] == "Bearer our-own-key"
    assert whole.path == "/v1/chat/completions?beta&who=me"


def test_a_stand_in_gets_what_is_listed() -> None:
    _, _, sent = taken()
    whole = sent("other")
    assert whole.headers.fields == (
        (b"Host", b"other.test"),
        (b"User-Agent", b"app"),
        (b"authorization", b"Bearer our-other-key"),
    )
    assert whole.path == "/v1/chat/completions?beta"


def test_what_another_addon_sets_is_sorted_too() -> None:
    """Between the headers and the whole request: it counts in place of what the app sent."""
    request, original, sent = taken(text=KEYED.replace('api_key = "our-own-key"\n', ""))
    request.headers["x-first"] = "2"
    request.headers["accept"] = "*/*"
    original.refresh(request, strips=True)
    assert [name for name, _ in request.headers.fields] == [b"Host", b"User-Agent", b"accept"]
    whole = sent("own")
    assert whole.headers["x-first"] == "2"
    assert whole.headers["authorization"] == "Bearer the-app-s-own"


def test_a_call_s_own_identity_is_no_other_account() -> None:
    """What differs from call to call says nothing of whose limit is spent."""
    first, second = (taken((*FIELDS[:-1], (b"Idempotency-Key", value)))[1] for value in (b"one", b"two"))
    assert first.fingerprint() == second.fingerprint()
    other = taken(((b"Host", b"app.test"), (b"Authorization", b"Bearer another")))[1]
    assert first.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("sent", "gets"),
    [
        ("oauth-2025-04-20", None),
        ("claude-code-20250219,oauth-2025-04-20, context-1m-2025-08-07", "claude-code-20250219, context-1m-2025-08-07"),
        ("context-1m-2025-08-07", "context-1m-2025-08-07"),
    ],
)
@pytest.mark.parametrize("keyed", ["own", "other"])
def test_betas_of_a_plan_go_with_its_token_alone(keyed: str, sent: str, gets: str | None) -> None:
    """Where a key takes the place of the app's token, at home as well as elsewhere, what speaks of the token stays."""
    text = TEXT + '[[providers]]\nname = "key"\ndialect = "anthropic"\nbase_url = "http://app.test"\napi_key = "k2"\n'
    text = text.replace('["own", "other"]', '["own", "other", "key"]')
    request = http.Request.make("POST", "http://app.test/v1/messages", b"{}")
    request.headers["authorization"] = "Bearer sk-ant-oat01"
    request.headers["anthropic-beta"] = sent
    routes = RouteTable(reading.parse(text, {}).routes)
    match = routes.match("POST", "http", "app.test", 80, "/v1/messages")
    assert match is not None
    call = match.dialect.read("messages", match.tail, "", "application/json", b'{"model":"m"}')
    candidates = {c.provider.name: c for c in routes.candidates(match, call.model)}
    original = Original.take(request, AllowList("anthropic"))
    original.strip(request)
    for name, beta, credential in (
        ("own", sent, ("authorization", "Bearer sk-ant-oat01")),
        ("key" if keyed == "own" else "other", gets, ("x-api-key", "k2" if keyed == "own" else "k")),
    ):
        copy = request.copy()
        point_at(copy, original, match, call, candidates[name])
        out = outgoing(copy, original, candidates[name], to_http1=True, to_proxy=False)
        assert out.headers.get("anthropic-beta") == beta
        found = {h: v for h, v in out.headers.items() if h in ("authorization", "x-api-key")}
        assert found == dict([credential])
