"""What the dialects share: numbers, flags, pages, and what a body is that is no answer."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sidestep.breaker.numbers import MAX_COUNT
from sidestep.breaker.outcomes import ErrorFacts, ErrorKind
from sidestep.dialects.base import Answer
from sidestep.dialects.common import (
    MAX_IDS,
    PLAIN_WORDS,
    answer_fields,
    asks_for_stream,
    bounded,
    charset_of,
    dicts_in,
    int_of,
    is_page,
    items_of,
    no_answer,
    not_read,
    text_of,
    with_fields,
)

JSON = "application/json"


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), (1, 1), (MAX_COUNT, 10**12), (MAX_COUNT + 1, 0), (-1, 0), (True, 0), (1.5, 0), ("1", 0), (None, 0)],
)
def test_counts(value: Any, number: int) -> None:
    """What is no possible number of tokens is none."""
    assert int_of(value) == number


@pytest.mark.parametrize(
    ("raw", "asks"),
    [("true", True), ("1", True), ('"true"', True), ('"True"', True), ('"1"', True), ('"yes"', False), ("2", False)],
)
def test_the_stream_flag(raw: str, asks: bool) -> None:
    """Some servers take words and numbers for it."""
    assert asks_for_stream(msgspec.Raw(raw.encode())) is asks
    assert not asks_for_stream(None)


@pytest.mark.parametrize(
    ("raw", "text", "items"),
    [(b'"x"', "x", []), (b'""', None, []), (b"5", None, []), (b"[1,[2]]", None, [b"1", b"[2]"]), (b"{", None, [])],
)
def test_reading_a_field(raw: bytes, text: str | None, items: list[bytes]) -> None:
    """A field of another type, or an empty one, is absent."""
    assert text_of(msgspec.Raw(raw)) == text
    assert [bytes(i) for i in items_of(raw)] == items


@pytest.mark.parametrize(
    ("body", "page"),
    [
        (b"<html>", True),
        (b" \r\n\t\xef\xbb\xbf<", True),
        (b" " * 199 + b"<", True),
        (b" " * 200 + b"<", False),
        (b"x<", False),
        (b"", False),
    ],
)
def test_pages(body: bytes, page: bool) -> None:
    """A page is told by how it begins, whatever it calls itself."""
    assert is_page(body) is page


@pytest.mark.parametrize(
    ("content_type", "body", "unread"),
    [
        ("text/plain", b"", False),
        ("text/plain", b" \n", False),
        ("text/plain", b"<html>", False),
        ("text/plain", b"hello", True),
        ("text/plain", b"{x", False),
        ("text/plain", b" [x", False),
        ("text/html", b"hello", False),
        ("text/event-stream; charset=utf-8", b"hello", False),
        (JSON, b"hello", False),
        ("application/json; charset=UTF-8", b"hello", False),
        ('application/json; charset="us-ascii"', b"hello", False),
        ("application/json; charset=utf-16", b"hello", True),
        ("", b"hello", True),
    ],
)
def test_what_is_no_object(content_type: str, body: bytes, unread: bool) -> None:
    """Nothing, a page and broken JSON are no answer; a form that is not known here may be one."""
    assert not_read(content_type, body) == Answer(good=False, unread=unread)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Service Unavailable", ErrorKind.SERVER),
        ("upstream connect error or disconnect/reset before headers", ErrorKind.SERVER),
        ("no healthy upstream", ErrorKind.SERVER),
        ("Too Many Requests\n", ErrorKind.RATE_LIMIT),
        ("overloaded", ErrorKind.OVERLOADED),
        ("Insufficient balance", ErrorKind.QUOTA),
        ("Unsupported value", None),
        ("It violates our policy", None),
        ("Internal error " + "x" * PLAIN_WORDS, None),
    ],
)
@pytest.mark.parametrize("content_type", ["text/plain", ""])
def test_failures_in_plain_words(words: str, kind: ErrorKind | None, content_type: str) -> None:
    """What a proxy between says of a provider is known to be no answer; other words are not understood."""
    found = not_read(content_type, words.encode())
    assert (found.good, found.unread, found.error and found.error.kind) == (False, kind is None, kind)


def test_a_body_that_the_sdks_can_read() -> None:
    """What is not strict JSON is read as they do; what is none has no fields."""
    assert answer_fields(JSON, b'{"a": 1}') == {"a": msgspec.Raw(b"1")}
    assert answer_fields(JSON, b'{"a": NaN}') == {"a": msgspec.Raw(b"null")}
    assert answer_fields("application/json; charset=utf-16", '{"a": 1}'.encode("utf-16")) == {"a": msgspec.Raw(b"1")}
    assert [answer_fields(JSON, body) for body in (b"", b"[]", b"{")] == [None, None, None]
    assert [charset_of(c) for c in ("x; charset=UTF-8", 'x;charset="a"', "x")] == ["utf-8", "a", ""]


def test_an_error_in_place_of_an_answer() -> None:
    """What is no answer is one with an error only if it says so."""
    assert no_answer(b"{}") == Answer(good=False)
    found = ErrorFacts(ErrorKind.OVERLOADED, "overloaded")
    assert no_answer(b'{"error": {"message": "overloaded"}}') == Answer(good=False, error=found)


def test_of_too_many_identifiers_the_last_are_kept() -> None:
    """Each once, in their order."""
    ids = [str(i) for i in range(MAX_IDS + 1)]
    assert bounded([*ids, ids[-1]]) == tuple(ids[1:])
    assert bounded(["a", "b", "a"]) == ("a", "b")


def test_objects_in_reading_order() -> None:
    """Wherever they are, but not inside what is skipped."""
    value = [{"n": 1, "in": {"n": 2, "skipped": {"n": 0}}, "list": [[{"n": 3}], "x"]}, {"n": 4}, 5]
    assert [d["n"] for d in dicts_in(value, frozenset({"skipped"}))] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("model", "drop", "changed"),
    [
        ("n", [], {"model": "n", "a": 1}),
        ("m", [], None),
        (None, [], None),
        (None, ["a"], {"model": "m"}),
        (None, ["b"], None),
        ("n", ["a", "b"], {"model": "n"}),
        ("n", ["model"], {"a": 1}),
    ],
)
def test_another_model_without_some_fields(model: str | None, drop: list[str], changed: dict[str, Any] | None) -> None:
    """A body that needs no change is the very same."""
    body = b'{"model": "m", "a": 1}'
    found = with_fields(body, model, drop)
    assert found is body if changed is None else json.loads(found) == changed


@pytest.mark.parametrize("body", [b"[]", b'{"a": 1}'])
def test_a_body_that_names_no_model_is_given_none(body: bytes) -> None:
    assert with_fields(body, "n", []) is body
