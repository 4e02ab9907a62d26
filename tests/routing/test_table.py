"""Which route a URL belongs to, and which providers may answer a call: whole plans."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.settings import Provider
from sidestep.config.urls import BaseURL
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call, Pin, PinKind
from sidestep.routing import table
from sidestep.routing.table import Candidate, Issued, Match, Plan, RouteTable

TEXT = """
[[providers]]
name = "home"
dialect = "anthropic"
base_url = "https://home.test"
issuer = "claude"

[[providers]]
name = "cloud"
dialect = "anthropic"
base_url = "https://cloud.test/anthropic"
api_key = "k1"
issuer = "claude"
models = { "claude-*" = "cloud/claude-*" }

[[providers]]
name = "other"
dialect = "anthropic"
base_url = "https://other.test"
api_key = "k2"
issuer = "other"
only = ["claude-*"]

[[providers]]
name = "local"
dialect = "anthropic"
base_url = "http://127.0.0.1:8000"
auth = "none"
issuer = "local"

[[routes]]
name = "r"
intercept = ["https://home.test"]
providers = ["home", "cloud", "other", "local"]
"""
SETTINGS = reading.parse(TEXT, {})
ROUTES = RouteTable(SETTINGS.routes)
PROVIDERS = {p.name: p for p in SETTINGS.providers}
HOME = BaseURL.parse("https://home.test")
MATCH = Match(SETTINGS.routes[0], HOME, "/v1/messages", "messages", DIALECTS["anthropic"])


def candidate(name: str, model: str | None = "claude-x") -> Candidate:
    called = f"cloud/{model}" if name == "cloud" and model is not None else model
    return Candidate(PROVIDERS[name], called, own=name == "home")


def all_of(names: str, model: str | None = "claude-x") -> tuple[Candidate, ...]:
    return tuple(candidate(name, model) for name in names.split())


def planned(
    names: str,
    pin: Pin | None = None,
    issued: dict[str, str] | None = None,
    lacking: str | None = None,
    model: str | None = "claude-x",
) -> Plan:
    """The plan of a call for these candidates. `lacking`: those known not to have the model."""
    lack = None if lacking is None else lacking.split()

    def knows(provider: Provider, asked: str) -> bool:
        assert lack is not None
        assert asked == candidate(provider.name, model).model, "each is asked for the model under its own name"
        return provider.name not in lack

    sealed = pin.ids if pin is not None and pin.kind is PinKind.SIGNATURE else ()
    call = Call("anthropic", "messages", model, stream=False, pin=pin, sealed=sealed)
    issuers = {p.name: p.issuer for p in SETTINGS.providers}
    known = {i: Issued(name, issuers.get(name, "?")) for i, name in (issued or {}).items()}
    knows_model = None if lack is None else knows
    return table.plan(all_of(names, model), call, home_issuer="claude", issuer_of=known.get, knows_model=knows_model)


# --- plans

ALL = "home cloud other local"
STATE = Pin(PinKind.STATE, "container", ("x", "y"))
SIGNED = Pin(PinKind.SIGNATURE, "thinking", ("x", "y"))


@pytest.mark.parametrize("lacking", [None, ""])
def test_a_call_that_is_not_pinned_goes_to_all_in_their_order(lacking: str | None) -> None:
    """Nobody is passed over, whatever identifiers were seen."""
    found = planned(ALL, issued={"x": "other"}, lacking=lacking)
    assert found == Plan(all_of(ALL), pinned=False, passthrough=False)


def test_a_provider_that_lacks_the_model_is_passed_over_while_another_may_have_it() -> None:
    """Where all are said to lack it, all are asked: what was said may be old."""
    assert planned(ALL, lacking="home other") == Plan(all_of("cloud local"), pinned=False, passthrough=False)
    assert planned(ALL, lacking=ALL) == Plan(all_of(ALL), pinned=False, passthrough=False)


def test_a_call_without_a_model_lacks_none() -> None:
    """A provider that may not have some model may answer a call that names none."""
    assert planned("home local", lacking="home local", model=None) == Plan(all_of("home local", None))


@pytest.mark.parametrize("issued", [{}, {"x": "gone"}])
@pytest.mark.parametrize("lacking", [None, "home"])
def test_state_of_an_unknown_issuer_pins_to_the_own_provider(issued: dict[str, str], lacking: str | None) -> None:
    """Also where the issuer is none of the candidates, and where the model is said to be unknown there."""
    assert planned(ALL, STATE, issued, lacking) == Plan(all_of("home"), pinned=True, passthrough=False)


@pytest.mark.parametrize(
    ("issued", "holder"),
    [({"x": "other"}, "other"), ({"y": "local"}, "local"), ({"x": "cloud", "y": "other"}, "cloud")],
)
def test_state_pins_to_its_issuer_alone(issued: dict[str, str], holder: str) -> None:
    """The first identifier whose issuer is known decides."""
    assert planned(ALL, STATE, issued) == Plan(all_of(holder), pinned=True, passthrough=False)


@pytest.mark.parametrize(
    ("issued", "names"),
    [
        *(({}, "home cloud"), ({"x": "home"}, "home cloud"), ({"y": "cloud"}, "home cloud")),
        ({"x": "other", "y": "other"}, "other"),
    ],
)
def test_a_signature_is_honoured_by_all_of_one_issuer(issued: dict[str, str], names: str) -> None:
    """They stand in for one another, so that a coding agent keeps its failover: it is not pinned to one of them."""
    assert planned(ALL, SIGNED, issued) == Plan(all_of(names), pinned=False, passthrough=False)


@pytest.mark.parametrize(
    ("names", "pin", "pinned"),
    [("", None, False), ("cloud other", STATE, True), ("", SIGNED, False), ("", STATE, True)],
)
def test_a_call_that_nobody_here_may_answer_goes_where_the_app_sent_it(
    names: str, pin: Pin | None, pinned: bool
) -> None:
    """With neither an issuer nor the own provider among the candidates there is none to go by."""
    assert planned(names, pin) == Plan((), pinned=pinned, passthrough=True)


@pytest.mark.parametrize(("names", "chosen"), [("cloud other", "cloud"), ("other local", "other")])
def test_a_signature_without_the_own_provider_among_the_candidates(names: str, chosen: str) -> None:
    """Whom the app addressed tells whose it is; where none of them honours that, the app has it from the first."""
    assert planned(names, SIGNED) == Plan(all_of(chosen), pinned=False, passthrough=False)


# --- candidates


def all_of_model(model: str) -> tuple[Candidate, ...]:
    """Those that may be asked for a model that is none of Claude's."""
    return tuple(Candidate(PROVIDERS[n], model, own=n == "home") for n in ("home", "cloud", "local"))


def test_candidates() -> None:
    """All that serve the model, under the name that each calls it; without a model, all."""
    assert ROUTES.candidates(MATCH, "claude-x") == all_of(ALL)
    assert ROUTES.candidates(MATCH, "gpt") == all_of_model("gpt")
    assert ROUTES.candidates(MATCH, None) == all_of(ALL, None)


@pytest.mark.parametrize(
    ("own", "takes"),
    [
        ('base_url = "https://home.test"', True),
        ('base_url = "https://home.test"\nauth = "none"', True),
        ('base_url = "https://home.test"\nheaders = { X-Org = "o" }', True),
        ('base_url = "https://home.test"\napi_key = "k"', False),
        ('base_url = "https://elsewhere.test"\napi_key = "k"', False),
    ],
)
def test_where_a_call_would_be_answered_without_us(own: str, takes: bool) -> None:
    """Where the app addressed a provider that is asked with no key of ours."""
    providers = (
        f'[[providers]]\nname = "own"\ndialect = "anthropic"\n{own}\n[[providers]]{TEXT.split("[[providers]]")[4]}'
    )
    (route,) = reading.parse(providers.replace('"home", "cloud", "other", "local"', '"own", "local"'), {}).routes
    assert Match(route, HOME, "/v1/messages", "messages", DIALECTS["anthropic"]).takes_own_credential is takes


def test_candidates_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that makes up models does not fill the memory."""
    monkeypatch.setattr(table, "KEPT_CANDIDATES", 2)
    routes = RouteTable(SETTINGS.routes)
    first = routes.candidates(MATCH, "1")
    assert routes.candidates(MATCH, "1") is first
    for model in "23451":
        assert routes.candidates(MATCH, model) == all_of_model(model)
        assert len(routes._candidates) <= 2
    again = routes.candidates(MATCH, "1")
    assert again is not first


@pytest.mark.parametrize(("name", "own"), [("home", True), ("cloud", False), ("local", False)])
def test_only_the_own_provider_without_a_key_of_ours_gets_the_apps_credential(name: str, own: bool) -> None:
    assert candidate(name).own_credential is own


@pytest.mark.parametrize(("more", "own"), [("", True), ('api_key = "k"', False), ('auth = "none"', False)])
def test_the_apps_credential_stays_where_nothing_takes_its_place(more: str, own: bool) -> None:
    """A key of ours takes its place, and so does `auth = "none"`, also at the provider that the app addressed."""
    text = f'[[providers]]\nname = "a"\ndialect = "openai"\nbase_url = "https://a.test/v1"\n{more}\n'
    routes = reading.parse(f'{text}[[routes]]\nintercept = ["https://a.test/v1"]\nproviders = ["a"]\n', {}).routes
    match = RouteTable(routes).match("POST", "https", "a.test", 443, "/v1/chat/completions")
    assert match is not None
    (found,) = RouteTable(routes).candidates(match, "m")
    assert (found.own, found.own_credential) == (True, own)


# --- routes

NESTED = RouteTable(
    reading.parse(
        """
[[providers]]
name = "a"
dialect = "openai"
base_url = "https://a.test/v1"
api_key = "k"

[[routes]]
name = "short"
intercept = ["https://app.test/v1", "https://a.test/v1"]
providers = ["a"]

[[routes]]
name = "long"
intercept = ["https://app.test/v1/deep"]
providers = ["a"]
""",
        {},
    ).routes
)


@pytest.mark.parametrize(
    ("method", "scheme", "host", "port", "path", "found"),
    [
        ("POST", "https", "app.test", 443, "/v1/chat/completions", ("short", "/chat/completions", "chat/completions")),
        (
            "POST",
            "https",
            "APP.test",
            443,
            "/v1/chat/completions?k=/v1",
            ("short", "/chat/completions", "chat/completions"),
        ),
        ("POST", "https", "app.test", 443, "/v1/deep/embeddings", ("long", "/embeddings", "embeddings")),
        ("GET", "wss", "app.test", 443, "/v1/realtime", ("short", "/realtime", "realtime.websocket")),
        ("GET", "https", "app.test", 443, "/v1/models", None),
        ("POST", "https", "app.test", 443, "/v1/deep/files", None),
        ("POST", "https", "app.test", 443, "/v2/chat/completions", None),
        ("POST", "https", "app.test", 8443, "/v1/chat/completions", None),
        ("POST", "http", "app.test", 443, "/v1/chat/completions", None),
        ("POST", "https", "b.test", 443, "/v1/chat/completions", None),
    ],
)
def test_a_request_belongs_to_the_route_with_the_longest_base(
    method: str, scheme: str, host: str, port: int, path: str, found: tuple[str, str, str] | None
) -> None:
    """Only calls that another provider could answer belong to one; the query says nothing."""
    match = NESTED.match(method, scheme, host, port, path)
    assert (None if match is None else (match.route.name, match.tail, match.operation)) == found


def test_whom_the_app_addressed() -> None:
    """A provider of the route by its name; where none of them is it, the host."""
    match = NESTED.match("POST", "https", "a.test", 443, "/v1/chat/completions")
    assert match is not None
    assert match.addressed == "a"
    match = NESTED.match("POST", "https", "app.test", 443, "/v1/chat/completions")
    assert match is not None
    assert match.addressed == "app.test"


@pytest.mark.parametrize(
    ("host", "port", "lies"),
    [("app.test", 443, True), ("App.Test", 443, True), ("app.test", 80, False), ("b", 443, False)],
)
def test_what_must_not_be_tunnelled_unopened(host: str, port: int, lies: bool) -> None:
    """Whatever has the host and the port of an intercept, and nothing else."""
    assert NESTED.lies_under(host, port) is lies


def test_a_pinned_call_goes_to_one_provider_alone() -> None:
    """Two may be the app's own, with two keys of ours: what one of them holds, the other need not."""
    table_of = '[[providers]]\nname = "{0}"\ndialect = "openai"\nbase_url = "https://a.test/v1"\napi_key = "k{0}"\n'
    route = '[[routes]]\nintercept = ["https://a.test/v1"]\nproviders = ["1", "2"]\n'
    routes = RouteTable(reading.parse(table_of.format(1) + table_of.format(2) + route, {}).routes)
    match = routes.match("POST", "https", "a.test", 443, "/v1/responses")
    assert match is not None
    one, two = routes.candidates(match, "m")
    assert (one.own, two.own) == (True, True)
    call = Call("openai", "responses", "m", stream=False, pin=STATE)
    found = table.plan((one, two), call, home_issuer="", issuer_of=lambda _: None, knows_model=None)
    assert found == Plan((one,), pinned=True, passthrough=False)
