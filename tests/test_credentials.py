"""What is a credential, and that it goes off and on without a trace: whole header lists and paths."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.settings import Provider
from sidestep.credentials import (
    Field,
    FieldKind,
    as_bytes,
    as_text,
    bears_credential,
    credential_fields,
    fingerprint,
    kind_of,
    public_part,
    secret_subprotocols,
    with_credentials,
    with_secrets,
    without_credentials,
)

PROTOCOLS = b"realtime, openai-insecure-api-key.sk-1, openai-organization.o, openai-project.p, openai-beta.realtime-v1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[
            (name, FieldKind.CREDENTIAL)
            for name in (
                b"Authorization",
                b"proxy-authorization",
                b"X-API-Key",
                b"api-key",
                b"x-goog-api-key",
                b"Cookie",
                b"OpenAI-Organization",
                b"openai-project",
                b"ChatGPT-Account-ID",
                b"x-goog-user-project",
                b"x-my-auth",
                b"my_api_key",
                b"ApiKey",
                b"X-Amz-Security-Token",
                b"client-secret",
                b"x-credential",
                b"set-cookie",
            )
        ],
        (b"Sec-WebSocket-Protocol", FieldKind.SUBPROTOCOL),
        (b"Expect", FieldKind.EXPECT),
        (b"Content-Type", FieldKind.CONTENT_TYPE),
        (b"content-encoding", FieldKind.CONTENT_ENCODING),
        *[(name, FieldKind.OTHER) for name in (b"host", b"accept", b"anthropic-beta", b"x-stainless-lang", b"")],
    ],
)
def test_what_a_header_s_name_says(name: bytes, kind: FieldKind) -> None:
    """Those that are known, and every name with a word in it that keys go by, in any case."""
    assert kind_of(name) is kind


# --- subprotocols


@pytest.mark.parametrize(
    ("value", "secret", "left"),
    [
        (PROTOCOLS, [False, True, True, True, False], b"realtime, openai-beta.realtime-v1"),
        (b"OpenAI-Insecure-API-Key.sk-1,realtime", [True, False], b"realtime"),
        (b"a.b,  c", [False, False], b"a.b, c"),
        (b"openai-organization.o", [True], None),
        (b"bearer.token.xyz", [True], None),
    ],
)
def test_which_subprotocols_are_a_credential(value: bytes, secret: list[bool], left: bytes | None) -> None:
    """Browsers put the key, the organisation and the project there; what is none goes on."""
    field = (b"Sec-WebSocket-Protocol", value)
    assert secret_subprotocols(value) == secret
    assert bears_credential(field) is any(secret)
    assert public_part(field) == (None if left is None else (b"Sec-WebSocket-Protocol", left))


def test_subprotocols_without_a_dot_hold_no_credential() -> None:
    field = (b"sec-websocket-protocol", b"realtime, auth")
    assert secret_subprotocols(field[1]) == []
    assert bears_credential(field) is False


@pytest.mark.parametrize(
    ("field", "bears"),
    [
        ((b"authorization", b"Bearer x"), True),
        ((b"x-api-key", b""), True),
        ((b"accept", b"authorization"), False),
        ((b"content-type", b"token.secret"), False),
    ],
)
def test_other_fields_bear_one_by_their_name_alone(field: Field, bears: bool) -> None:
    """And nothing of such a field is public."""
    assert bears_credential(field) is bears
    assert public_part(field) is None


# --- query parameters


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("/v1/x", "/v1/x"),
        ("/v1/x?", "/v1/x?"),
        ("/v1/x?alt=sse", "/v1/x?alt=sse"),
        ("/v1/x?key=k", "/v1/x"),
        ("/v1/x?KEY=k&alt=sse&api_key=k", "/v1/x?alt=sse"),
        ("/v1/x?a=%20&api-key=k&b=?&apikey=k", "/v1/x?a=%20&b=?"),
        ("/v1/x?access_token=k&token=k&&c", "/v1/x?&c"),
        ("/v1/x?%6Bey=k&monkey=1&keys=2&key", "/v1/x?monkey=1&keys=2"),
        ("/key=k/x?model=key", "/key=k/x?model=key"),
    ],
)
def test_a_path_without_its_credentials(path: str, bare: str) -> None:
    """The other parameters stay byte for byte, in their order."""
    assert without_credentials(path) == bare


@pytest.mark.parametrize(
    ("path", "original", "whole"),
    [
        (b"/b/x", b"/v1/x", b"/b/x"),
        (b"/b/x", b"/v1/x?alt=sse", b"/b/x"),
        (b"/b/x", b"/v1/x?alt=sse&key=k", b"/b/x?key=k"),
        (b"/b/x?alt=sse", b"/v1/x?key=k&alt=sse&api_key=l", b"/b/x?alt=sse&key=k&api_key=l"),
        (b"/b/x?alt=sse", b"/v1/x?key=\xff&a=b?c", b"/b/x?alt=sse&key=\xff"),
    ],
)
def test_a_rewritten_path_with_the_credentials_of_the_original(path: bytes, original: bytes, whole: bytes) -> None:
    assert with_credentials(path, original) == whole


def test_paths_survive_as_text() -> None:
    """Whatever their bytes are."""
    path = bytes(range(256))
    assert as_bytes(as_text(path)) == path


# --- off and on


@pytest.mark.parametrize(
    "fields",
    [
        ((b"Host", b"h"), (b"Authorization", b"Bearer x"), (b"accept", b"*/*"), (b"cookie", b"c")),
        ((b"x-api-key", b"1"), (b"X-Api-Key", b"2")),
        ((b"a", b"1"), (b"sec-websocket-protocol", PROTOCOLS), (b"b", b"2"), (b"api-key", b"k"), (b"c", b"3")),
        ((b"sec-websocket-protocol", b"openai-organization.o"), (b"a", b"1")),
        ((b"a", b"1"),),
        (),
    ],
)
def test_credentials_taken_off_and_put_back_leave_no_trace(fields: tuple[Field, ...]) -> None:
    """Every field stands where it stood, with its own case."""
    secrets = tuple((place, field) for place, field in enumerate(fields) if bears_credential(field))
    public = tuple(p for f in fields if (p := public_part(f) if bears_credential(f) else f) is not None)
    assert not any(bears_credential(field) for field in public)
    assert with_secrets(public, secrets) == fields


def test_a_credential_is_put_back_though_its_public_part_has_gone() -> None:
    """Another addon may have taken the subprotocols off."""
    field = (b"sec-websocket-protocol", PROTOCOLS)
    assert with_secrets(((b"a", b"1"), (b"b", b"2")), ((1, field),)) == ((b"a", b"1"), field, (b"b", b"2"))


# --- a provider's own


def provider(more: str) -> Provider:
    base = "https://p.test/v1"
    text = f'[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "{base}"\n{more}\n'
    text += f'[[routes]]\nintercept = ["{base}"]\nproviders = ["p"]\n'
    (found,) = reading.parse(text, {}).providers
    return found


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ("", ()),
        ('auth = "none"', ()),
        ('api_key = "long-key"', ((b"authorization", b"Bearer long-key"),)),
        ('api_key = "long-key"\nauth = "X-API-Key"', ((b"x-api-key", b"long-key"),)),
        ('headers = { "X-Title" = "a title" }', ((b"x-title", b"a title"),)),
        (
            'api_key = "long-key"\nheaders = { "X-Title" = "t", B = "2" }',
            ((b"x-title", b"t"), (b"b", b"2"), (b"authorization", b"Bearer long-key")),
        ),
        ('auth = "none"\nheaders = { A = "1" }', ((b"a", b"1"),)),
    ],
)
def test_what_a_provider_s_configuration_adds(more: str, fields: tuple[Field, ...]) -> None:
    """Its own headers in their order, its credential last, in lower case as HTTP/2 wants it."""
    assert credential_fields(provider(more)) == fields


# --- fingerprints

KEY = (b"Authorization", b"Bearer sk-CANARY-0123456789")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ([(b"authorization", b"Bearer sk-other")], b"/"),
        ([KEY, (b"openai-organization", b"org")], b"/"),
        ([KEY], b"/?key=k"),
        ([], b"/?key=k"),
        ([], b"/?key=l"),
        ([(b"x-api-key", KEY[1])], b"/"),
        ([], b"/?a=b"),
    ],
)
def test_another_credential_has_another_fingerprint(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    """A key, an organisation, a parameter: whatever names an account."""
    assert fingerprint(fields, path) != fingerprint([KEY], b"/")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ([(b"authorization", KEY[1])], b"/"),
        ([KEY], b"/other?alt=sse"),
        ([(b"cookie", b"renewed"), KEY], b"/"),
    ],
)
def test_the_same_credential_has_the_same_fingerprint(fields: list[tuple[bytes, bytes]], path: bytes) -> None:
    """In whatever call; a cookie, which servers renew, is no other account."""
    assert fingerprint(fields, path) == fingerprint([KEY], b"/")


def test_the_order_of_the_fields_does_not_count() -> None:
    """An app may write its headers as it likes."""
    fields = [KEY, (b"openai-organization", b"org")]
    assert fingerprint(fields, b"/") == fingerprint(reversed(fields), b"/")


def test_nothing_of_a_credential_is_in_its_fingerprint() -> None:
    """It is a keyed digest of a fixed length, and empty where there is no credential."""
    found = fingerprint([KEY], b"/?key=CANARY")
    assert len(found) == 32
    assert "CANARY" not in found
    assert fingerprint([(b"cookie", b"a=b")], b"/?alt=sse") == ""
