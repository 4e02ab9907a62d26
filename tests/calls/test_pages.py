"""Sidestep's own pages: what is where, for whom, and what the buttons' requests need."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mitmproxy import http

from sidestep import page, status
from sidestep.breaker.circuit import State
from sidestep.calls.entrance import Entrance
from sidestep.calls.pages import Pages
from sidestep.calls.shared import Core
from support.flows import flow_of
from support.world import World, toml


def told(response: http.Response) -> tuple[int, dict[str, str], Any]:
    """Status, header fields by name, and the body read."""
    return response.status_code, dict(response.headers.items()), json.loads(response.content or b"null")


def opened(a: float, b: float) -> World:
    """Both circuits are open, and may be probed after so many seconds."""
    circuit = 'circuit = {{ failure_threshold = 1, open_seconds = {}, scope = "provider" }}'
    world = World(toml("priority", "[attempts]\nwait_seconds = 0", a=circuit.format(a), b=circuit.format(b)))
    assert world.call(failing="ab") == "ab-"
    return world


def visit(world: World, path: str, method: str = "GET", *, details: bool = True, **headers: str) -> http.Response:
    core = Core()
    core.clock = lambda: world.now
    core.engine = world.engine
    request = flow_of(method, f"http://sidestep.internal{path}").request
    for name, value in headers.items():
        request.headers[name.replace("_", "-")] = value.replace("TOKEN", core.token)
    shown = Pages(core, Entrance()).answer(request, world.engine, details=details)
    assert isinstance(shown, http.Response)
    return shown


GUARDED = {
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""So that no page of the web learns anything from ours."""


@pytest.mark.parametrize("query", ["", "?x=1"])
def test_the_three_pages(query: str) -> None:
    """Each is what `status` says, with its type; a query changes nothing."""
    world = opened(20, 30)
    health = visit(world, f"/health{query}")
    fields = {"content-type": "application/json", "content-length": str(len(health.content or b"")), **GUARDED}
    assert told(health) == (
        503,
        fields,
        status.health(world.engine, world.now)[1],
    )
    metrics = visit(world, f"/metrics{query}")
    assert (metrics.status_code, metrics.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert metrics.content == status.metrics(world.engine, world.now)
    shown = visit(world, f"/{query}")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    found = page.file("/")
    assert found is not None
    assert shown.content == found.content


def test_strangers_learn_how_it_is_in_a_word() -> None:
    """Without details: the status code and its word, and no other page."""
    world = opened(20, 30)

    def see(path: str) -> http.Response:
        return visit(world, path, details=False)

    assert (see("/health").status_code, json.loads(see("/health").content or b"")) == (503, {"status": "unhealthy"})
    assert [see(path).status_code for path in ("/", "/metrics", "/nothing")] == [403, 403, 403]


def test_health_is_fine_where_calls_are_answered() -> None:
    world = World(toml("priority", "", a=""))
    assert told(visit(world, "/health"))[0] == 200


def test_other_pages_and_methods() -> None:
    """What there is, and how to ask for it."""
    world = World(toml("priority", "", a=""))
    missing = visit(world, "/nothing")
    assert (missing.status_code, missing.content) == (
        404,
        b"this is Sidestep, a proxy: /, /health, /metrics and /state are here\n",
    )
    put = visit(world, "/health", "PUT")
    assert (put.status_code, put.headers["allow"]) == (405, "GET, HEAD, POST")
    assert visit(world, "/health", "POST").status_code == 403, "what changes something needs the token"


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/nothing"])
def test_head_is_get_without_the_body(path: str) -> None:
    """Header fields and all."""
    world = World(toml("priority", "", a=""))
    whole, head = visit(world, path), visit(world, path, "HEAD")
    assert (head.status_code, head.headers.fields) == (whole.status_code, whole.headers.fields)
    assert head.raw_content == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/health", "/health?x=1", "/metrics", "/nothing"])
def test_a_client_without_rights_learns_one_word(path: str, method: str) -> None:
    """Whether its calls are served, by status and word; no provider, no route, no count."""
    for world in (opened(20, 30), World(toml("priority", "", a=""))):
        shown = visit(world, path, method, details=False)
        code, body = status.health(world.engine, world.now)
        if path.startswith("/health"):
            assert shown.status_code == code
            assert method == "HEAD" or json.loads(shown.content or b"") == {"status": body["status"]}
        else:
            assert shown.status_code == 403
        assert not any(name.encode() in (shown.content or b"") for name in ("app.test", "metrics", "closed", '"a"'))
    assert visit(world, path, "POST", details=False).status_code == 403


def test_the_token_holds_circuits_and_sets_the_mode() -> None:
    world = World(toml("priority", "", a=""))
    name = world.engine.settings.providers[0]
    for how, state in (("open", State.FORCED_OPEN), ("disable", State.DISABLED), ("auto", State.CLOSED)):
        assert visit(world, f"/circuit/{how}/a", "POST", x_sidestep_token="TOKEN").status_code == 200
        world.engine.guard(name, "m")
        assert world.engine.circuit_of(name).state(world.now) is state
    assert visit(world, "/mode/off", "POST", x_sidestep_token="TOKEN").status_code == 200
    assert world.engine.mode == "off"
    refused = visit(world, "/mode/fast", "POST", x_sidestep_token="TOKEN")
    assert (refused.status_code, refused.content) == (404, b"expected one of enforce, observe, off, found 'fast'\n")
    for wrong in ("", "\xe9", "\udcff", "TOKEN.", " TOKEN", "x" * 60_000):
        assert visit(world, "/mode/enforce", "POST", x_sidestep_token=wrong).status_code == 403
    assert world.engine.mode == "off"


def test_a_stream_of_events_begins_with_the_whole_picture() -> None:
    world = World(toml("priority", "", a=""))
    shown = visit(world, "/stream")
    assert shown.headers["content-type"] == "text/event-stream"
    head, data, *rest = (shown.content or b"").split(b"\n")
    assert (head, rest) == (b"retry: 1000", [b"", b""])
    picture = json.loads(data.removeprefix(b"data: "))
    assert [r["served_by"] for r in picture["routes"]] == ["a"]
    assert json.loads(visit(world, "/state").content or b"")["providers"][0]["words"] == "not asked yet"
