"""What of a request goes to a stand-in: what is listed, and nothing else; what was kept back leaves no trace."""

from __future__ import annotations

import pytest

from sidestep.credentials import Field
from sidestep.forwarding import (
    HEADERS,
    KNOWN_NAMES,
    PARAMETERS,
    AllowList,
    FieldKind,
    Kept,
    allow_list,
    with_kept,
    with_parameters,
)

OPENAI, ANTHROPIC, GEMINI = (AllowList(name) for name in ("openai", "anthropic", "gemini"))
PROTOCOLS = b"realtime, openai-insecure-api-key.sk-1, openai-organization.o, openai-project.p, openai-beta.realtime-v1"

NEEDED = [
    *(
        "content-type",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "accept",
        "accept-encoding",
    ),
    *(
        "accept-language",
        "user-agent",
        "traceparent",
        "tracestate",
        "x-request-id",
        "x-client-request-id",
    ),
    *(
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "x-stainless-lang",
    ),
    *(
        "x-stainless-retry-count",
        "x-stainless-read-timeout",
        "x-stainless-helper-method",
        "x-app",
    ),
]
CREDENTIALS = [
    *(
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "cookie",
    ),
    *(
        "openai-organization",
        "openai-project",
        "chatgpt-account-id",
        "x-goog-user-project",
    ),
    *(
        "ocp-apim-subscription-key",
        "x-functions-key",
        "cf-access-client-id",
        "cf-access-client-secret",
    ),
    *(
        "x-portkey-config",
        "x-portkey-api-key",
        "x-portkey-virtual-key",
        "x-jwt-payload",
        "x-amz-signature",
    ),
    *(
        "x-pass",
        "x-session-id",
        "x-account-id",
        "x-organization",
        "x-goog-iap-jwt-assertion",
        "x-client-cert",
    ),
    *(
        "x-ms-client-principal",
        "x-amz-security-token",
        "helicone-auth",
        "x-my-auth",
        "x-client-secret",
    ),
    *("x-credential",),
]
"""Those that have been seen to go out, and whatever has one of their words."""
UNLISTED = [
    *(
        "referer",
        "origin",
        "forwarded",
        "x-forwarded-for",
        "via",
        "from",
        "x-user",
        "x-tenant",
        "x-team-id",
    ),
    *(
        "x-employee",
        "x-whoami",
        "x-acme",
        "x-acme-pin",
        "x-license",
        "x-device",
        "x-visitor",
        "x-customer",
    ),
    *(
        "x-nonce",
        "x-badge",
        "x-ticket",
        "x-grant",
        "baggage",
        "idempotency-key",
        "x-stainless-auth",
    ),
    *(
        "x-stainless-session",
        "sec-fetch-site",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
    ),
    *("x-openrouter-id",),
]
"""Names that no list of credentials would have."""


def sent_to_any(allowed: AllowList, name: str, value: bytes = b"v") -> Field | None:
    field = (name.encode(), value)
    return allowed.forwarded_part(allowed.kind_of(field[0]), field)


@pytest.mark.parametrize("name", NEEDED)
def test_what_a_call_needs_goes_to_any_provider(name: str) -> None:
    """In whatever case, in each dialect, byte for byte."""
    for allowed in (OPENAI, ANTHROPIC, GEMINI):
        for spelt in (name, name.title(), name.upper()):
            assert sent_to_any(allowed, spelt) == (spelt.encode(), b"v")


@pytest.mark.parametrize("name", [*CREDENTIALS, *UNLISTED])
def test_all_else_stays_with_the_app_s_own_host(name: str) -> None:
    """Whether anybody has thought of it or not."""
    for allowed in (OPENAI, ANTHROPIC, GEMINI):
        for spelt in (name, name.title(), name.upper()):
            assert sent_to_any(allowed, spelt) is None


def test_a_dialect_s_own_names_are_its_own() -> None:
    """A version or a beta of one API says nothing to another."""
    for dialect, allowed in (("openai", OPENAI), ("anthropic", ANTHROPIC), ("gemini", GEMINI)):
        for whose, names in HEADERS.items():
            for name in names:
                assert (sent_to_any(allowed, name.decode()) is not None) is (whose == dialect)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("Sec-WebSocket-Protocol", PROTOCOLS, b"realtime, openai-beta.realtime-v1"),
        ("sec-websocket-protocol", b"OpenAI-Insecure-API-Key.sk-1,Realtime", b"Realtime"),
        ("sec-websocket-protocol", b"realtime,openai-beta.x", b"realtime,openai-beta.x"),
        ("sec-websocket-protocol", b"realtime-CANARY, chat.CANARY, CANARY", None),
        ("Connection", b"keep-alive, Upgrade", b"keep-alive, Upgrade"),
        ("connection", b"close, x-canary", None),
        ("Host", b"user:CANARY@app.test:80", b"app.test:80"),
        ("host", b"app.test", b"app.test"),
        ("expect", b"100-continue", b"100-continue"),
        ("Content-Type", b"application/json", b"application/json"),
        ("content-type", b"application/json; Charset=UTF-8", b"application/json; Charset=UTF-8"),
        ("content-type", b"text/x;a=CANARY; charset=x ;b", b"text/x; charset=x"),
        ("content-type", b"multipart/form-data; boundary=a", b"multipart/form-data; boundary=a"),
        ("content-type", b"multipart/form-data; of=CANARY; boundary=a;x", b"multipart/form-data; boundary=a"),
        ("content-type", b'multipart/mixed;x="CANARY;";Boundary="a;b";y=1', b'multipart/mixed;Boundary="a;b"'),
        ("content-type", b'text/x; x="CANARY; charset=utf-8"; charset="u"', b'text/x; charset="u"'),
        ("content-type", b'text/x; charset="u"CANARY; charset= v CANARY', b'text/x; charset="u"; charset= v'),
    ],
)
def test_of_some_fields_a_part_goes(name: str, value: bytes, part: bytes | None) -> None:
    """Their values say which."""
    assert sent_to_any(OPENAI, name, value) == (None if part is None else (name.encode(), part))


def test_an_option_adds_names() -> None:
    """Header fields in any case, parameters as they are; what is read for other ends is not theirs to give."""
    allowed = allow_list("openai", ("X-Team", "Idempotency-Key", "Origin"), ("team",))
    assert sent_to_any(allowed, "x-TEAM") == (b"x-TEAM", b"v")
    assert sent_to_any(allowed, "idempotency-key") == (b"idempotency-key", b"v")
    assert sent_to_any(allowed, "x-acme") is None
    assert sent_to_any(allowed, "origin") is None
    assert allowed.divided("/x?team=a&Team=b&key=k") == ("/x?team=a", ["Team=b", "key=k"])


def test_names_are_remembered_within_bounds() -> None:
    """An app that makes up header names does not fill the memory."""
    allowed = AllowList("openai")
    for i in range(3 * KNOWN_NAMES):
        assert allowed.kind_of(b"x-%d" % i) is FieldKind.KEPT
        assert len(allowed.known) <= KNOWN_NAMES
    assert allowed.kind_of(b"x-stainless-" + b"a" * 10_000) is FieldKind.KEPT
    assert max(map(len, allowed.known)) < 100


# --- query parameters


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("/v1/x", "/v1/x"),
        ("/v1/x?", "/v1/x?"),
        ("/v1/x?alt=sse", "/v1/x?alt=sse"),
        ("/v1/x?%61lt=sse&alt=%73se", "/v1/x?%61lt=sse&alt=%73se"),
        ("/v1/x?key=k", "/v1/x"),
        ("/v1/x?KEY=k&alt=sse&subscription-key=k&code=k", "/v1/x?alt=sse"),
        ("/v1/x?a=%20&alt=sse&b", "/v1/x?alt=sse"),
        ("/v1/x?CANARY", "/v1/x"),
        ("/v1/x?alt=sse;key=CANARY", "/v1/x"),
        ("/v1/x?alt=sse?key=CANARY&fields=a(b)", "/v1/x?fields=a(b)"),
        ("/v1/x?alt=sse#key", "/v1/x"),
        ("/v1/x?Alt=sse", "/v1/x"),
        ("/key=k/x?alt=json", "/key=k/x?alt=json"),
    ],
)
def test_a_path_for_any_provider(path: str, bare: str) -> None:
    """The parameters that the dialect knows stay byte for byte, in their order."""
    shown = bare.partition("?")[2].split("&")
    assert GEMINI.divided(path) == (bare, [p for p in path.partition("?")[2].split("&") if p and p not in shown])


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("/x?alt=SECRET-1&fields=a", "/x?fields=a"),
        ("/x?alt=%53ECRET-1&fields=a", "/x?fields=a"),
        ("/x?fields=b-SECRET-2-b", "/x"),
        ("/x?fields=SECRET-3", "/x?fields=SECRET-3"),
    ],
)
def test_a_parameter_that_repeats_what_is_secret_stays(path: str, bare: str) -> None:
    copies = (b"SECRET-1", b"SECRET-2")
    found, kept = GEMINI.divided(path, copies)
    assert (found, set(kept)) == (bare, set(path[3:].split("&")) - set(bare[3:].split("&")))


@pytest.mark.parametrize("dialect", list(PARAMETERS))
def test_each_dialect_has_its_parameters(dialect: str) -> None:
    for whose, names in PARAMETERS.items():
        for name in names - {"beta"}:
            kept = [] if whose == dialect else [f"{name}=v"]
            assert allow_list(dialect, (), ()).divided(f"/x?{name}=v")[1] == kept


@pytest.mark.parametrize(
    ("path", "parameters", "whole"),
    [
        (b"/b/x", [], b"/b/x"),
        (b"/b/x", ["key=k"], b"/b/x?key=k"),
        (b"/b/x?alt=sse", ["key=k", "a"], b"/b/x?alt=sse&key=k&a"),
        (b"/b/x?alt=sse", ["key=\udcff"], b"/b/x?alt=sse&key=\xff"),
    ],
)
def test_a_rewritten_path_with_what_was_kept_back(path: bytes, parameters: list[str], whole: bytes) -> None:
    assert with_parameters(path, parameters) == whole


# --- off and on


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Host", b"h"), (b"Authorization", b"Bearer x"), (b"accept", b"*/*"), (b"cookie", b"c")),
        ((b"x-api-key", b"1"), (b"X-Api-Key", b"2")),
        ((b"a", b"1"), (b"sec-websocket-protocol", PROTOCOLS), (b"accept", b"2"), (b"api-key", b"k"), (b"c", b"3")),
        ((b"sec-websocket-protocol", b"openai-organization.o"), (b"accept", b"1")),
        ((b"Host", b"user@h"), (b"x", b"1"), (b"connection", b"x"), (b"accept", b"1")),
        ((b"accept", b"1"),),
        (),
    ],
)
def test_what_is_taken_off_and_put_back_leaves_no_trace(fields: tuple[Field, ...]) -> None:
    """Every field stands where it stood, with its own case."""
    parts = [(field, OPENAI.forwarded_part(OPENAI.kind_of(field[0]), field)) for field in fields]
    kept = [Kept(i, field, part, FieldKind.KEPT) for i, (field, part) in enumerate(parts) if part is not field]
    assert with_kept(tuple(part for _, part in parts if part is not None), kept) == fields


def test_a_field_is_put_back_though_its_part_has_gone() -> None:
    """Another addon may have taken it off."""
    field = (b"sec-websocket-protocol", PROTOCOLS)
    kept = Kept(1, field, (b"sec-websocket-protocol", b"realtime"), FieldKind.SUBPROTOCOL)
    assert with_kept(((b"a", b"1"), (b"b", b"2")), [kept]) == ((b"a", b"1"), field, (b"b", b"2"))


def test_credentials_are_told_from_what_is_merely_kept() -> None:
    """They name the account that a limit belongs to, and copies of them are looked for; what differs from call to call
    is none."""
    for name in ("authorization", "x-api-key", "ocp-apim-subscription-key", "openai-project", "cookie"):
        assert OPENAI.kind_of(name.encode()) is FieldKind.CREDENTIAL
    for name in ("idempotency-key", "x-session-id", "x-acme", "referer"):
        assert OPENAI.kind_of(name.encode()) is FieldKind.KEPT
