"""What is a credential, what of the app's has copies elsewhere, and what a provider's configuration adds."""

from __future__ import annotations

import pytest

from sidestep.config import reading
from sidestep.config.settings import Provider
from sidestep.config.urls import is_credential
from sidestep.credentials import (
    MAX_COPIES,
    Field,
    as_bytes,
    as_text,
    copies_to_find,
    credential_fields,
    fingerprint,
    is_credential_header,
    names_a_credential,
)

PROTOCOLS = b"realtime, openai-insecure-api-key.sk-12345, openai-organization.my-company, openai-beta.realtime-v1"


@pytest.mark.parametrize(
    ("name", "is_one", "names_one"),
    [
        *[
            (name, True, True)
            for name in (
                b"authorization",
                b"proxy-authorization",
                b"x-api-key",
                b"api-key",
                b"x-goog-api-key",
                b"ocp-apim-subscription-key",
                b"cookie",
                b"openai-organization",
                b"openai-project",
                b"chatgpt-account-id",
                b"x-goog-user-project",
                b"my_api_key",
                b"x-amz-security-token",
                b"client-secret",
                b"x-goog-iap-jwt-assertion",
                b"x-password",
                b"set-cookie",
            )
        ],
        *[
            (name, False, True)
            for name in (
                *(b"x-session-id", b"x-account", b"x-organization", b"x-principal", b"x-client-cert"),
                *(b"x-signature", b"x-pass", b"x-assertion"),
            )
        ],
        *[
            (name, False, False)
            for name in (b"host", b"accept", b"anthropic-beta", b"x-stainless-lang", b"sec-websocket-key", b"")
        ],
        (b"idempotency-key", False, False),
    ],
)
def test_what_a_header_s_name_says(name: bytes, is_one: bool, names_one: bool) -> None:
    """Those that are known, and every name with a word in it that keys, or accounts, go by."""
    assert is_credential_header(name) is is_one
    assert names_a_credential(name) is names_one


@pytest.mark.parametrize("name", ["key", "KEY", "%6Bey", "api_key", "subscription-key", "code", "sig", "client_secret"])
def test_parameters_that_are_a_credential(name: str) -> None:
    assert is_credential(f"{name}=x")
    assert is_credential(name)


@pytest.mark.parametrize("name", ["keys", "monkey", "keyword", "model", "api-version", "a=key", "token_limit"])
def test_parameters_that_are_none(name: str) -> None:
    assert not is_credential(name)


@pytest.mark.parametrize(
    ("fields", "parameters", "found"),
    [
        ([(b"Authorization", b"Bearer sk-12345")], [], (b"sk-12345",)),
        ([(b"x-api-key", b"12345678"), (b"api-key", b"short")], [], (b"12345678",)),
        ([(b"api-key", b"1234567")], ["key=1234567"], ()),
        ([(b"sec-websocket-protocol", PROTOCOLS)], [], (b"sk-12345", b"my-company")),
        ([(b"authorization", b"Basic dXNlcjpwYXNzd29yZC0x")], [], (b"dXNlcjpwYXNzd29yZC0x", b"password-1")),
        ([(b"authorization", b"basic !!no-base64!!")], [], (b"!!no-base64!!",)),
        ([(b"authorization", b'Token token="sk-12345", a=b')], [], (b"sk-12345",)),
        ([(b"cookie", b"sid=12345678")], [], (b"sid=12345678", b"12345678")),
        ([(b"cookie", b"a=b; sid=12345678; theme=dark")], [], (b"theme=dark", b"12345678")),
        ([(b"x-api-key", b"12345678==")], [], (b"12345678==",)),
        ([], ["key=AIza-12345", "user=somebody-else", "api_key=12345678"], (b"AIza-12345", b"12345678")),
    ],
)
def test_what_copies_are_looked_for(fields: list[Field], parameters: list[str], found: tuple[bytes, ...]) -> None:
    """The keys themselves, where they are long enough to be found nowhere else."""
    assert copies_to_find(fields, parameters) == found


def test_not_more_copies_are_looked_for_than_a_call_has() -> None:
    """A head has room for thousands, and for thousands of places to look at. Cookies come last."""
    cookies = [(b"Cookie", b"; ".join(b"c=cookie%02d" % i for i in range(90)))] * 2
    found = copies_to_find([*cookies, (b"x-api-key", b"sk-12345")], [f"key={i:08d}" for i in range(50)])
    assert len(found) == MAX_COPIES
    assert b"sk-12345" in found
    assert b"00000049" in found


def test_paths_survive_as_text() -> None:
    """Whatever their bytes are."""
    path = bytes(range(256))
    assert as_bytes(as_text(path)) == path


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
    ("fields", "parameters"),
    [
        ([(b"authorization", b"Bearer sk-other")], []),
        ([KEY, (b"openai-organization", b"org")], []),
        ([KEY], ["key=k"]),
        ([], ["key=k"]),
        ([], ["key=l"]),
        ([(b"x-api-key", KEY[1])], []),
        ([(b"sec-websocket-protocol", PROTOCOLS)], []),
        ([], ["a=b"]),
    ],
)
def test_another_credential_has_another_fingerprint(fields: list[Field], parameters: list[str]) -> None:
    """A key, an organisation, a parameter: whatever names an account."""
    assert fingerprint(fields, parameters) != fingerprint([KEY], [])


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ([(b"authorization", KEY[1])], []),
        ([KEY], ["alt=sse", "user=me"]),
        ([(b"cookie", b"renewed"), KEY], []),
    ],
)
def test_the_same_credential_has_the_same_fingerprint(fields: list[Field], parameters: list[str]) -> None:
    """In whatever call; a cookie, which servers renew, is no other account, nor is what differs from call to call."""
    assert fingerprint(fields, parameters) == fingerprint([KEY], [])


def test_the_order_of_the_fields_does_not_count() -> None:
    """An app may write its headers as it likes."""
    fields = [KEY, (b"openai-organization", b"org")]
    assert fingerprint(fields, []) == fingerprint(reversed(fields), [])


def test_nothing_of_a_credential_is_in_its_fingerprint() -> None:
    """It is a keyed digest of a fixed length, and empty where there is no credential."""
    found = fingerprint([KEY], ["key=CANARY"])
    assert len(found) == 32
    assert "CANARY" not in found
    assert fingerprint([(b"cookie", b"a=b")], ["alt=sse"]) == ""
