"""Nothing but keys in the environment: each dialect's official host fails over to the same model elsewhere, and at last
to a model of this machine."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from support.calls import APP_KEY, DIALECT, OFFICIAL, Client
from support.encodings import zstd
from support.internet import Internet
from support.provider import Behaviour, Provider, Seen, text_of
from support.proxy import Mitmdump
from support.waiting import until

OTHER_KEY = "key-of-the-other-provider-0123456789"
CASES = [
    ("chat", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "openrouter", "openrouter.ai", "/api/v1/chat/completions"),
    ("responses", "OPENAI_API_KEY", "OPENROUTER_API_KEY", "openrouter", "openrouter.ai", "/api/v1/responses"),
    (
        "messages",
        "ANTHROPIC_API_KEY",
        "OPENROUTER_API_KEY",
        "openrouter",
        "openrouter.ai",
        "/api/v1/messages",
    ),
    (
        *("gemini", "GEMINI_API_KEY", "GOOGLE_VERTEX_API_KEY", "vertex", "aiplatform.googleapis.com"),
        r"/v1(beta1)?/publishers/google/models/gemini-2.5-pro:",
    ),
    (
        *("gemini", "GEMINI_API_KEY", "AIHUBMIX_API_KEY", "aihubmix", "aihubmix.com"),
        r"/gemini/v1(beta)?/models/gemini-2.5-pro:",
    ),
]
MODELS = {"chat": "openai/gpt-4o", "responses": "openai/gpt-4o", "messages": "anthropic/claude-opus-4.8"}


@pytest.mark.parametrize(("api", "own_key", "other_key", "name", "host", "path"), CASES, ids=lambda v: str(v)[:12])
def test_keys_in_the_environment_are_enough(
    api: str,
    own_key: str,
    other_key: str,
    name: str,
    host: str,
    path: str,
    provider: Callable[..., Provider],
    proxy: Callable[..., Mitmdump],
    tmp_path: Path,
) -> None:
    """While the official host answers, it alone is asked, with the app's key; when it fails, the other one is, with
    the key of the environment and its own name for the model."""
    official = OFFICIAL[DIALECT[api]].split("/")[2]
    internet = Internet(tmp_path)
    own, other = provider("own", tls=internet.tls(official)), provider("other", tls=internet.tls(host))
    internet.places = {official: own.port, host: other.port}
    keys = {own_key: "key-in-the-environment-9876543210", other_key: OTHER_KEY}
    m = proxy(None, *internet.options(), env={**keys, "XDG_CONFIG_HOME": str(tmp_path)})
    with Client(m) as app:
        for stream in (False, True):
            healthy = app.call(api, stream=stream)
            assert healthy.error is None, m.log
            assert healthy.text == text_of("own", Behaviour())
            assert healthy.provider == DIALECT[api]
        assert other.count == 0
        own.default = Behaviour(status=503)
        for stream in (False, True):
            rerouted = app.call(api, stream=stream)
            assert rerouted.error is None, m.log
            assert (rerouted.text, rerouted.provider) == (text_of("other", Behaviour()), name)
    assert other.count == 2
    for seen in own.requests:
        assert APP_KEY in str(seen.headers)
        assert OTHER_KEY not in str(seen.headers)
        assert "key-in-the-environment" not in str(seen.headers)
    for seen in other.requests:
        assert OTHER_KEY in str(seen.headers)
        assert APP_KEY not in str(seen.headers) + seen.path
        assert re.match(path, seen.path)
        assert seen.header("host") == host
        if api in MODELS:
            assert seen.json["model"] == MODELS[api]


PLAN, VENDOR_KEY = "sk-ant-oat01-PLAN-CANARY-0123456789", "sk-ant-api03-VENDOR-CANARY-0123456789"
LISTED = json.dumps({"object": "list", "data": [{"id": "nomic-embed-text:latest"}, {"id": "qwen3-coder:30b"}]}).encode()


class Vendor:
    """Anthropic's own host: what it answers to a plan's token, and to a key."""

    def __init__(self) -> None:
        self.plan = self.key = Behaviour()

    def choose(self, seen: Seen) -> Behaviour:
        return self.plan if seen.header("authorization") == f"Bearer {PLAN}" else self.key


def used_up(seconds: float) -> Behaviour:
    """A plan's window of five hours is used up, and that of a week is not."""
    now, prefix = int(time.time()), "anthropic-ratelimit-unified"
    headers = {
        f"{prefix}-status": "rejected",
        f"{prefix}-representative-claim": "five_hour",
        f"{prefix}-5h-status": "rejected",
        f"{prefix}-5h-utilization": "1.0",
        f"{prefix}-5h-reset": str(now + int(seconds)),
        f"{prefix}-7d-status": "allowed",
        f"{prefix}-7d-utilization": "0.4",
        f"{prefix}-7d-reset": str(now + 400_000),
    }
    return Behaviour(status=429, code="rate_limit_error", headers=headers)


def local_server(provider: Callable[..., Provider]) -> Provider:
    """Lists its models, and answers."""
    server = provider("local")
    server.chooser = lambda seen: Behaviour(body=LISTED) if seen.method == "GET" else server.default
    return server


def test_a_plan_goes_on(provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path) -> None:
    """Where the window of an app's plan is used up its session goes on: with a key of one's own at the same vendor,
    then with another provider's, then with a server of this machine that answers, whose model stands for the one that
    was asked for. Each credential stays where it belongs."""
    internet, vendor = Internet(tmp_path), Vendor()
    home = provider("home", tls=internet.tls("api.anthropic.com"))
    router = provider("router", tls=internet.tls("openrouter.ai"))
    server = local_server(provider)
    home.chooser = vendor.choose
    internet.places = {"api.anthropic.com": home.port, "openrouter.ai": router.port, "localhost": server.port}
    env = {"SIDESTEP_ANTHROPIC_API_KEY": VENDOR_KEY, "SIDESTEP_OPENROUTER_API_KEY": OTHER_KEY}
    env |= {"OLLAMA_HOST": f"127.0.0.1:{server.port}", "XDG_CONFIG_HOME": str(tmp_path)}
    m = proxy(None, *internet.options(), env=env)
    m.wait_for_log("ollama answers at .* and has 2 models: it is asked last, for qwen3-coder:30b")
    m.wait_for_log(r"calls to https://api.anthropic.com may go to anthropic .*openrouter .*ollama \(localhost\)")
    with (
        httpx2.Client(proxy=m.url, verify=str(m.ca)) as http,
        anthropic.Anthropic(
            auth_token=PLAN,
            api_key=None,
            base_url="https://api.anthropic.com",
            default_headers={"anthropic-beta": "oauth-2025-04-20"},
            http_client=http,
            max_retries=0,
        ) as app,
    ):

        def turn() -> tuple[str, str, str]:
            """Which server answered, whose name it bears, and after whom."""
            said: Any = [{"role": "user", "content": "hi"}]
            raw = app.messages.with_raw_response.create(model="claude-opus-4-8", max_tokens=99, messages=said)
            told = raw.parse()
            assert told.model == "claude-opus-4-8", "as the app called it, whatever its provider does"
            text = told.content[0].text  # type: ignore[union-attr]
            return text.split()[0], raw.headers["x-sidestep-provider"], raw.headers["x-sidestep-attempts"]

        assert turn() == ("home", "anthropic", "anthropic:200")
        vendor.plan = used_up(3600)
        assert turn() == ("home", "anthropic-key", "anthropic:429, anthropic-key:200")
        assert turn() == ("home", "anthropic-key", "anthropic-key:200")
        vendor.key = Behaviour(status=402, code="billing_error")
        assert turn() == ("router", "openrouter", "anthropic-key:402, openrouter:200")
        router.default = Behaviour(status=402)
        assert turn() == ("local", "ollama", "openrouter:402, ollama:200")
        assert turn() == ("local", "ollama", "ollama:200")
        status, headers, _ = embed(http)
        assert (status, headers.get("x-sidestep-provider")) == (502, None), "no other model has its numbers"
    of_plan = [seen for seen in home.requests if PLAN in str(seen.headers)]
    of_key = [seen for seen in home.requests if VENDOR_KEY in str(seen.headers)]
    assert (len(of_plan), len(of_key)) == (2, 3)
    assert {seen.header("anthropic-beta") for seen in of_plan} == {"oauth-2025-04-20"}
    assert {seen.header("anthropic-beta") for seen in of_key} == {None}
    assert {seen.json["model"] for seen in router.requests} == {"anthropic/claude-opus-4.8"}
    talked = [seen for seen in server.requests if seen.method == "POST"]
    assert {(seen.path, seen.json["model"]) for seen in talked} == {("/v1/messages", "qwen3-coder:30b")}
    for seen in (*of_plan, *of_key, *router.requests, *server.requests):
        bears = [key for key in (PLAN, VENDOR_KEY, OTHER_KEY) if key in f"{seen.headers} {seen.path} {seen.body!r}"]
        allowed = PLAN if seen in of_plan else VENDOR_KEY if seen in of_key else OTHER_KEY
        assert bears == ([allowed] if seen not in server.requests else [])
    health = m.health()
    assert [*health["providers"]] == [
        "openai",
        "anthropic",
        "gemini",
        "chatgpt",
        "code-assist",
        "anthropic-key",
        "openrouter",
        "ollama",
    ]
    assert health["routes"]["anthropic"]["served_by"] == "ollama"
    metrics = m.page("/metrics")[1].decode()
    # With another account's key it is another provider, also at the same address.
    assert 'sidestep_requests_total{result="answered",route="anthropic"} 1.0' in metrics
    assert 'sidestep_requests_total{result="rerouted",route="anthropic"} 5.0' in metrics
    told = m.log + json.dumps(health) + m.page("/")[1].decode() + metrics
    assert [key for key in (PLAN, VENDOR_KEY, OTHER_KEY) if key in told] == []


CODEX = "https://chatgpt.com/backend-api/codex"
LOGIN, ACCOUNT = "eyJ-PLAN-CANARY.0123456789.abc", "account-CANARY-0123456789"
LIMIT = {"error": {"type": "usage_limit_reached", "message": "no", "plan_type": "plus", "resets_in_seconds": 3600}}


def test_a_plan_of_codex_goes_on(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path
) -> None:
    """With a ChatGPT login Codex calls another address than with a key, which refuses keys as that one refuses logins:
    once its plan is used up a key of one's own is asked at OpenAI, then another provider. What it asks beside its
    calls, and a call that is answered at home, reach that host as they were sent, compressed too."""
    internet = Internet(tmp_path)
    home = provider("home", tls=internet.tls("chatgpt.com"))
    vendor = provider("vendor", tls=internet.tls("api.openai.com"))
    router = provider("router", tls=internet.tls("openrouter.ai"))
    internet.places = {"chatgpt.com": home.port, "api.openai.com": vendor.port, "openrouter.ai": router.port}
    env = {
        "SIDESTEP_OPENAI_API_KEY": VENDOR_KEY,
        "SIDESTEP_OPENROUTER_API_KEY": OTHER_KEY,
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    m = proxy("local = false\n", *internet.options(), env=env)
    body = {"model": "gpt-5", "instructions": "be brief", "input": "hi", "stream": True, "store": False}
    sent = zstd.compress(json.dumps(body).encode())
    headers = {
        "authorization": f"Bearer {LOGIN}",
        "chatgpt-account-id": ACCOUNT,
        "originator": "codex_cli_rs",
        "content-type": "application/json",
    }
    with httpx2.Client(proxy=m.url, verify=str(m.ca)) as http:

        def turn() -> tuple[int, str, str]:
            answer = http.post(f"{CODEX}/responses", content=sent, headers={**headers, "content-encoding": "zstd"})
            return answer.status_code, answer.headers["x-sidestep-attempts"], answer.text

        status, trail, text = turn()
        assert (status, trail, "home" in text) == (200, "chatgpt:200", True)
        listed = http.get(f"{CODEX}/models?client_version=1", headers=headers)
        asked = http.get("https://chatgpt.com/backend-api/wham/usage", headers=headers)
        assert [a.headers.get("x-sidestep-provider") for a in (listed, asked)] == [None, None]
        home.default = Behaviour(status=429, body=json.dumps(LIMIT).encode())
        status, trail, text = turn()
        assert (status, trail, "vendor" in text) == (200, "chatgpt:429, openai-key:200", True)
        assert 3500 < m.provider("chatgpt")["cooldown"]["seconds"] <= 3600
        vendor.default = Behaviour(status=401)
        status, trail, text = turn()
        assert (status, trail, "router" in text) == (200, "openai-key:401, openrouter:200", True)
    at_home = [seen for seen in home.requests if seen.method == "POST"]
    assert [(seen.path, seen.body) for seen in at_home] == [("/backend-api/codex/responses", sent)] * 2
    assert [seen.path for seen in home.requests if seen.method == "GET"] == [
        "/backend-api/codex/models?client_version=1",
        "/backend-api/wham/usage",
    ]
    assert {(seen.header("authorization"), seen.header("chatgpt-account-id")) for seen in home.requests} == {
        (f"Bearer {LOGIN}", ACCOUNT)
    }
    assert {(seen.path, seen.header("authorization")) for seen in vendor.requests} == {
        ("/v1/responses", f"Bearer {VENDOR_KEY}")
    }
    assert {seen.path for seen in router.requests} == {"/api/v1/responses"}
    for seen in (*vendor.requests, *router.requests):
        assert not [word for word in (LOGIN, ACCOUNT) if word in f"{seen.headers} {seen.path} {seen.body!r}"]
    told = m.log + json.dumps(m.health()) + m.page("/")[1].decode() + m.page("/metrics")[1].decode()
    assert [word for word in (LOGIN, ACCOUNT, VENDOR_KEY, OTHER_KEY) if word in told] == []


CODE_ASSIST = "https://cloudcode-pa.googleapis.com/v1internal"
SPENT = {
    "error": {
        "code": 429,
        "status": "RESOURCE_EXHAUSTED",
        "message": "You have exhausted your capacity on this model.",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "3600s"}],
    }
}


def test_a_google_login_of_gemini_cli_goes_on(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path
) -> None:
    """With a Google login Gemini CLI calls another address, with the Gemini call in an envelope. What stays at home is
    as it was sent, both ways; a key of one's own gets the plain call, and its answers come in envelopes."""
    internet = Internet(tmp_path)
    home = provider("home", tls=internet.tls("cloudcode-pa.googleapis.com"))
    vendor = provider("vendor", tls=internet.tls("generativelanguage.googleapis.com"))
    internet.places = {"cloudcode-pa.googleapis.com": home.port, "generativelanguage.googleapis.com": vendor.port}
    m = proxy("local = false\n", *internet.options(), env={"SIDESTEP_GEMINI_API_KEY": VENDOR_KEY})
    inner = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"temperature": 0}}
    sent = json.dumps({"model": "gemini-2.5-pro", "project": ACCOUNT, "user_prompt_id": "p", "request": inner}).encode()
    headers = {"authorization": f"Bearer {LOGIN}", "content-type": "application/json"}
    candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": "well"}]}, "finishReason": "STOP"}
    said = json.dumps({"response": {"candidates": [candidate]}, "traceId": "t"}).encode()
    event = Behaviour(body=b"data: " + said + b"\n\n", headers={"content-type": "text/event-stream"})
    with httpx2.Client(proxy=m.url, verify=str(m.ca)) as http:

        def turn(method: str) -> tuple[int, str, bytes]:
            answer = http.post(f"{CODE_ASSIST}:{method}", content=sent, headers=headers)
            return answer.status_code, answer.headers.get("x-sidestep-attempts", ""), answer.content

        home.then(Behaviour(body=said), event, Behaviour(body=b"{}"))
        assert turn("generateContent") == (200, "code-assist:200", said)
        assert turn("streamGenerateContent?alt=sse") == (200, "code-assist:200", b"data: " + said + b"\n\n")
        assert turn("loadCodeAssist") == (200, "", b"{}")
        home.default = Behaviour(status=429, body=json.dumps(SPENT).encode())
        status, trail, whole = turn("generateContent")
        assert (status, trail) == (200, "code-assist:429, gemini-key:200")
        status, trail, streamed = turn("streamGenerateContent?alt=sse")
        assert (status, trail) == (200, "code-assist:429, gemini-key:200")
    parts = json.loads(whole)["response"]["candidates"][0]["content"]["parts"]
    assert "".join(p["text"] for p in parts) == text_of("vendor", Behaviour())
    events = [json.loads(e.removeprefix(b"data: ")) for e in streamed.replace(b"\r", b"").split(b"\n\n") if e.strip()]
    each = [e["response"]["candidates"][0]["content"]["parts"] for e in events]
    assert "".join(p.get("text", "") for found in each for p in found) == text_of("vendor", Behaviour())
    assert [seen.body for seen in home.requests] == [sent] * 5
    assert {seen.header("authorization") for seen in home.requests} == {f"Bearer {LOGIN}"}
    assert [(seen.path, seen.json) for seen in vendor.requests] == [
        ("/v1beta/models/gemini-2.5-pro:generateContent", inner),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", inner),
    ]
    assert {seen.header("x-goog-api-key") for seen in vendor.requests} == {VENDOR_KEY}
    for seen in vendor.requests:
        assert not [word for word in (LOGIN, ACCOUNT) if word in f"{seen.headers} {seen.path} {seen.body!r}"]


def test_it_does_not_ask_itself(provider: Callable[..., Provider], proxy: Callable[..., Mitmdump]) -> None:
    """mitmproxy listens by default where llama.cpp does. All servers are asked together."""
    server = local_server(provider)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = f'local = true\n[[providers]]\nname = "lm-studio"\nbase_url = "{server.url()}"\n'
    m = proxy(text, "--set", "flow_detail=1", "--listen-port", str(port), env={"OLLAMA_HOST": f":{port}"})
    assert m.port == port
    m.wait_for_log("lm-studio answers")
    assert "/v1/models" not in m.log


def embed(http: httpx2.Client) -> tuple[int, httpx2.Headers, bytes]:
    """A call that no model of another kind can answer, at a host that is not there."""
    body = {"model": "text-embedding-3-small", "input": "hi"}
    answer = http.post("https://api.openai.com/v1/embeddings", json=body, headers={"authorization": "Bearer sk-app"})
    return answer.status_code, answer.headers, answer.content


def test_a_server_that_loads_a_model_has_not_failed(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path
) -> None:
    """It is found once it is ready, and asked again when it says that it loads: its circuit stays as it is."""
    internet = Internet(tmp_path)
    home, server = provider("home", tls=internet.tls("api.openai.com")), local_server(provider)
    internet.places = {"api.openai.com": home.port, "localhost": server.port}
    home.default = Behaviour(status=503)
    loading = Behaviour(status=503, code="unavailable_error", message="Loading model")
    server.then(loading)
    m = proxy(None, *internet.options(), env={"OLLAMA_HOST": f":{server.port}", "XDG_CONFIG_HOME": str(tmp_path)})
    m.wait_for_log("ollama answers at", 20)
    with Client(m) as app:
        server.then(loading)
        result = app.call("chat", stream=True)
    assert (result.text.split()[0], result.provider) == ("local", "ollama"), result.error
    assert result.attempts == "openai:503, openai:503, ollama:503, ollama:200"
    assert (m.provider("ollama")["failure_count"], m.provider("ollama")["totals"]["failure"]) == (0, 0)


def listings(server: Provider) -> list[Seen]:
    return [seen for seen in server.requests if seen.method == "GET"]


def test_a_server_that_is_started_later_is_found(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path
) -> None:
    """Once calls have met trouble, for then it is wanted. One that was found stays, whatever it says later."""
    internet = Internet(tmp_path)
    home, server = provider("home", tls=internet.tls("api.openai.com")), local_server(provider)
    internet.places = {"api.openai.com": home.port, "localhost": server.port}
    (soon := tmp_path / "soon.py").write_text("import sidestep.addon as a\na.LOOK_AGAIN_SECONDS = 0.5\naddons = []\n")
    server.refuse()
    env = {"OLLAMA_HOST": f":{server.port}", "XDG_CONFIG_HOME": str(tmp_path)}
    m = proxy(None, *internet.options(), "-s", str(soon), env=env)
    with Client(m) as app:
        assert app.call("chat", stream=False).provider == "openai"
    server.listen_again()
    home.default = Behaviour(status=429, code="insufficient_quota")
    with Client(m) as app:
        assert app.call("chat", stream=False).provider == "openai", "nobody else is known yet"
    m.wait_for_log("ollama answers at", 20)
    with Client(m) as app:
        assert app.call("chat", stream=False).provider == "ollama"
    server.chooser = lambda seen: Behaviour(status=500)
    with Client(m) as app:
        app.call("chat", stream=False)
    asked = len(listings(server))
    until(lambda: len(listings(server)) > asked, "it is looked for again", 20)
    assert "ollama" in m.health()["providers"]


def test_servers_of_this_machine_can_be_turned_off(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], tmp_path: Path
) -> None:
    """A file that says no more than that leaves all else as it is without one; a change of it is taken over."""
    internet, server = Internet(tmp_path), local_server(provider)
    internet.places = {"localhost": server.port}
    m = proxy("local = false\n", *internet.options(), env={"OLLAMA_HOST": f":{server.port}"})
    assert [*m.health()["providers"]] == ["openai", "anthropic", "gemini", "chatgpt", "code-assist"]
    assert server.count == 0
    m.config.write_text("local = true\n")
    m.wait_for_log("ollama answers at")
    assert [*m.health()["providers"]] == ["openai", "anthropic", "gemini", "chatgpt", "code-assist", "ollama"]
    server.refuse()
    m.config.write_text("local = false\n")
    m.wait_for_log("configuration reloaded(.|\n)*configuration reloaded")
    assert [*m.health()["providers"]] == ["openai", "anthropic", "gemini", "chatgpt", "code-assist"]
