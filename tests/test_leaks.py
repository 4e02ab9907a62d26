"""A key is found in every form that is looked for, wherever a body is cut up, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.config import reading
from sidestep.config.settings import Provider
from sidestep.leaks import Keys, Leaks, Searcher, Sieve, secrets_of

KEYS = [b"sk-proj-8GhT_x29/KfLw+Zq0=", b"pk-a-CANARY-9876543210", b"AIzaSyD-0123456789abcdefghijklmnopqrstu"]
OTHERS = [b"0f" * 16, b"gsk_" + b"aB3" * 17, b"Bearer-less"]
SEARCHER = Searcher([*KEYS, *OTHERS])

keys = st.sampled_from([*KEYS, *OTHERS])
texts = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([*KEYS, b" ", b"\n", b"\\u00", b"%", b"\0", b"\\", b"u", b"s", b"k-"])).map(
        lambda parts: b"".join(p[:9] for p in parts)
    ),
    st.text(max_size=30).map(lambda t: json.dumps(t).encode()),
)


@st.composite
def escaped(draw: st.DrawFn, key: bytes) -> bytes:
    """Each character as it is, or as JSON or a URL may write it, in JSON in JSON as well."""
    found = b""
    for code in key:
        how = draw(st.sampled_from(["as it is", "json", "url"]))
        number = draw(st.sampled_from([b"%02x", b"%02X"])) % code
        if how == "json":
            found += b"\\" * draw(st.integers(1, 3)) + b"u00" + number
        elif how == "url":
            found += b"%" + b"25" * draw(st.integers(0, 2)) + number
        else:
            found += bytes([code])
    return found


@st.composite
def encoded(draw: st.DrawFn, key: bytes) -> bytes:
    """The key amid other bytes, in base64, perhaps in a URL or in JSON."""
    data = draw(st.binary(max_size=5)) + key + draw(st.binary(max_size=5))
    text = draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))(data).decode()
    return draw(st.sampled_from([text, quote(text, safe=""), text.replace("/", "\\/")])).encode()


@st.composite
def forms(draw: st.DrawFn, key: bytes) -> bytes:
    """One way to write a key."""
    form: bytes = draw(st.one_of(st.just(key), escaped(key), encoded(key)))
    wide = draw(st.sampled_from(["", "utf-16-le", "utf-16-be", "utf-32-le"]))
    return form.decode("latin-1").encode(wide) if wide and form.isascii() else form


@st.composite
def pieces_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """A body cut up somehow."""
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def sieve(searcher: Searcher = SEARCHER) -> Sieve:
    return Sieve(searcher, bool)


def pass_through(pieces: list[bytes], through: Sieve) -> tuple[bytes, bool]:
    """What goes on, and whether a key ended it."""
    passed = b""
    for piece in pieces:
        if (some := through.feed(piece)) is None:
            return passed, True
        passed += some
    return passed + through.rest(), False


# --- what is found


@given(data=st.data(), key=keys, before=texts, after=texts)
def test_no_byte_of_a_key_goes_on_whatever_its_form_and_the_pieces(
    data: st.DataObject, key: bytes, before: bytes, after: bytes
) -> None:
    """What goes on ends where the key begins, or a character earlier that base64 shares with what is before it."""
    form = data.draw(forms(key))
    passed, found = pass_through(data.draw(pieces_of(before + b" " + form + b" " + after)), sieve())
    assert found
    assert (before + b" " + form).startswith(passed)
    # The first bytes of a form may be another's: of base64, of a zero of UTF-16 or UTF-32, of the byte before the key.
    is_base64 = key not in form and re.fullmatch(rb"[A-Za-z0-9+/=_-]+", form) is not None
    shared = 0 if form.startswith(key[:1]) and not is_base64 else 40
    assert len(passed) <= len(before) + 1 + shared
    assert key[:4] not in passed[len(before) + 1 :]


WHOLLY = {
    "json": "".join(f"\\u{code:04X}" for code in KEYS[0]),
    "json in json": "".join(f"\\\\u{code:04x}" for code in KEYS[0]),
    "url": "".join(f"%{code:02x}" for code in KEYS[0]),
    "url in url": "".join(f"%25{code:02X}" for code in KEYS[0]),
    "url in json": "".join(f"\\u0025{code:02X}" for code in KEYS[0]),
    "json in url": "".join(f"%5Cu{code:04x}" for code in KEYS[0]),
    "slashes": KEYS[0].decode().replace("/", "\\\\/"),
    "base64": base64.b64encode(KEYS[0]).decode(),
}


@pytest.mark.parametrize("encoding", ["ascii", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("form", WHOLLY.values(), ids=WHOLLY)
def test_at_every_cut_a_key_is_found_before_any_of_it_has_gone_on(form: str, encoding: str) -> None:
    """Also between the characters of an escape, and the bytes of a character."""
    before = "it is ".encode(encoding)
    text = before + form.encode(encoding)
    for at in range(1, len(text)):
        passed, found = pass_through([text[:at], text[at:]], sieve())
        assert found, (text[:at], text[at:])
        assert before.startswith(passed.removesuffix(b"\0")), (text[:at], passed)


@pytest.mark.parametrize("before", [b"100%", b"%%", b"=", b"==", b"\\", b"\\u00", b"%25", b"\\n", b"u00", b"\0"])
@pytest.mark.parametrize("form", WHOLLY.values(), ids=WHOLLY)
def test_what_looks_like_an_escape_before_a_key_hides_nothing(form: str, before: bytes) -> None:
    assert SEARCHER.find(before + form.encode()) == (KEYS[0],)


@pytest.mark.parametrize("end", [b"%", b"%7", b"\\u00", b"sk-\\u0070", b"%73k"])
def test_no_more_is_held_back_than_since_the_last_blank(end: bytes) -> None:
    through = sieve()
    assert through.feed(b"one two\nthree " + end) == b"one two\nthree "
    assert through.feed(b" ") == end + b" "


@given(data=st.data(), key=keys, before=texts, after=texts)
def test_a_whole_text_is_found_to_hold_a_key(data: st.DataObject, key: bytes, before: bytes, after: bytes) -> None:
    """In any form, amid anything."""
    assert key in SEARCHER.find(before + b" " + data.draw(forms(key)) + b"\n" + after)


@given(data=st.data(), text=texts)
def test_all_else_goes_on_byte_for_byte(data: st.DataObject, text: bytes) -> None:
    """What looked like the beginning of a key goes on as soon as it is none."""
    passed, found = pass_through(data.draw(pieces_of(text)), sieve())
    if not SEARCHER.find(text):
        assert (passed, found) == (text, False)


@given(data=st.data(), key=keys)
def test_the_beginning_of_a_key_goes_on_when_nothing_follows_it(data: st.DataObject, key: bytes) -> None:
    text = b"it begins with " + key[: data.draw(st.integers(1, len(key) - 1))]
    through = sieve()
    passed = through.feed(text)
    assert passed is not None
    assert text.startswith(passed)
    assert len(passed) <= len(b"it begins with ")
    assert passed + through.rest() == text


@pytest.mark.parametrize("end", [b"\n", b"}", b" ", b"]\r\n", b"\n\0", b""])
def test_whole_events_and_documents_are_not_held_back(end: bytes) -> None:
    """The very same bytes, without a copy."""
    text = b"data: {}" + end
    assert sieve().feed(text) is text


@pytest.mark.parametrize(
    "text",
    [
        b"sk-proj-8GhT_x29/KfLw+Zq0",
        b"SK-PROJ-8GHT_X29/KFLW+ZQ0=",
        b"sk-proj-8GhT_x29 /KfLw+Zq0=",
        b"pk-a-CANARY-\\u0158876543210",
        b"pk-a-CANARY-%3876543210",
        b"sk-",
        b"",
    ],
)
def test_what_is_no_key_is_not_found(text: bytes) -> None:
    assert SEARCHER.find(text) == ()


def test_in_any_case_where_that_is_wanted() -> None:
    """HTTP/2 writes names of header fields in lower case."""
    found = Searcher(KEYS, any_case=True)
    for key in KEYS:
        assert found.find(b"x: " + key.lower()) == (key,)
        assert found.find((b"x: \\u0" + b"%03X" % key[0] + key[1:].upper()).lower()) == (key,)
        assert found.find("".join(f"\\u{code:04x}" for code in key.upper()).encode()) == (key,)


@pytest.mark.parametrize("form", [b"100%25-sure-key", b"100%2525-sure-key", b"%31%30%30%25%32%35-sure-key"])
def test_a_key_may_look_like_an_escape_itself(form: bytes) -> None:
    assert Searcher([b"100%25-sure-key"]).find(b"it is " + form) == (b"100%25-sure-key",)


@pytest.mark.parametrize("secrets", [[], [b"%41%42%43"], [b"aaaaaaaa", b"aaaaaaaaa"], [b"\\\\\\\\\\\\\\\\"]])
def test_odd_keys_do_no_harm(secrets: list[bytes]) -> None:
    """None, one that is too short once its escapes are undone, one inside another, backslashes."""
    searcher = Searcher(secrets)
    assert searcher.find(b"something else") == ()
    assert pass_through([b"some", b"thing\\", b" else"], sieve(searcher)) == (b"something\\ else", False)


def test_many_long_keys_are_recognised_by_few_characters() -> None:
    """The quick look asks for each of these characters: there must not be one for each key."""
    many = [base64.b64encode(bytes([i, 255 - i]) * 24) for i in range(100)]
    searcher = Searcher(many)
    assert len(searcher._groups) <= 12
    assert all(searcher.find(b'{"a":"%s"}' % key) == (key,) for key in many)


# --- what the app itself has said


def leaks(said: bytes) -> Leaks:
    return Leaks(Keys(SEARCHER, Searcher([*KEYS, *OTHERS], any_case=True)), lambda: said)


@given(data=st.data(), key=keys)
def test_what_the_app_has_said_may_come_back(data: st.DataObject, key: bytes) -> None:
    """Also in another form; another key may not."""
    own = leaks(b'{"messages":[{"content":"' + data.draw(escaped(key)) + b'"}]}')
    text = b"you said " + data.draw(forms(key)) + b"\n"
    assert pass_through(data.draw(pieces_of(text)), own.sieve()) == (text, False)
    assert not own.in_words(text)
    other = next(k for k in KEYS if k != key)
    assert pass_through([text, other], own.sieve()) == (text, True)
    assert own.in_words(other)


def test_the_app_is_asked_only_when_a_key_was_found() -> None:
    """To go through all that it has sent takes time."""

    def never() -> bytes:
        raise AssertionError

    quiet = Leaks(Keys(SEARCHER, SEARCHER), never)
    assert not quiet.in_words(b"nothing")
    assert quiet.sieve().feed(b"nothing\n") == b"nothing\n"


# --- what is looked for


def provider(more: str) -> Provider:
    base = "https://p.test/v1"
    text = f'[[providers]]\nname = "p"\ndialect = "openai"\nbase_url = "{base}"\n{more}\n'
    text += f'[[routes]]\nintercept = ["{base}"]\nproviders = ["p"]\n'
    (found,) = reading.parse(text, {}).providers
    return found


def header(name: str, value: str) -> str:
    return f"headers = {{ {name} = {json.dumps(value)} }}"


@pytest.mark.parametrize(
    ("more", "secrets"),
    [
        ("", []),
        ('api_key = "12345678"', ["12345678"]),
        ('api_key = "1234567"', []),
        (header("X-Gateway-Secret", "short"), []),
        (header("X-Gateway-Secret", "value-of-2"), ["value-of-2"]),
        (header("X-Api-Token", "Token abcdefg1"), ["abcdefg1"]),
        (header("My-Cookie", "a=1; session=abcd0123efgh"), ["session=abcd0123efgh", "abcd0123efgh"]),
        (header("X-Config", '{"provider":"openai","api_key":"sk-0123456789ab"}'), ["sk-0123456789ab"]),
        (header("X-Own", "own-CANARY-9876543210"), ["own-CANARY-9876543210"]),
        (header("X-Own", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"]),
        (header("X-Title", "sidestep"), []),
        (header("X-Title", "The customer support bot of example.com"), []),
        (header("HTTP-Referer", "https://app.example.com/support-bot"), []),
        (header("X-Model", "gpt-4o-2024-08-06"), []),
        (header("X-Model", "claude-3-5-sonnet-20241022"), []),
        (header("X-Model", "accounts/fireworks/models/llama-v3p1-405b-instruct"), []),
        (header("X-Region", "europe-west1"), []),
        (header("Anthropic-Beta", "prompt-caching-2024-07-31,computer-use-2025-01-24"), []),
        (header("X-Key-Kind", "workload-name"), []),
    ],
)
def test_the_strings_that_must_appear_nowhere(more: str, secrets: list[str]) -> None:
    """Keys, and those values of own headers that are secrets: answers name models, regions and apps as well."""
    assert secrets_of([provider(more), provider(more)]) == tuple(s.encode() for s in secrets)


@pytest.mark.parametrize(
    ("key", "is_looked_for"),
    [
        ("sk-proj-0123", True),
        ("correct-horse-battery-staple", True),
        ("abcdefghijklmnopqrstuvwxyz", True),
        ("lm-studio", False),
        ("not-needed", False),
        ("sk-no-key-required", False),
        ("your-api-key-goes-here", False),
        ("20241022", False),
        ("2024-07-31", False),
        ("01234567890123456789", True),
    ],
)
def test_content_may_hold_what_is_no_key_by_its_looks(key: str, is_looked_for: bool) -> None:
    """A word in place of a key, or a date, is left out of errors, and ends no good answer."""
    found = Keys.of([provider(f'api_key = "{key}"')])
    text = f"as you said, {key}".encode()
    assert bool(found.content.find(text)) is is_looked_for
    assert found.words.find(text.lower()) == (key.encode(),)


def test_a_provider_s_key_is_in_no_repr() -> None:
    """Of what is kept to look for it."""
    found = Keys.of([provider('api_key = "sk-CANARY-0123456789"')])
    own = Leaks(found, lambda: b"")
    show: list[Callable[[], str]] = [lambda: repr(found), lambda: repr(own), lambda: repr(own.sieve())]
    assert not any(re.search("CANARY", text()) for text in show)
