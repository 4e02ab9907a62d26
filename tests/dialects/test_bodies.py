"""What is read of a request's body: that it means one thing, and how much of it."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep.dialects import DIALECTS, bodies, bounds, forms
from sidestep.dialects.base import Call
from sidestep.dialects.bodies import NotReadError, fields_in, pruned
from sidestep.dialects.bounds import is_crowded
from sidestep.dialects.forms import Form

JSON = "application/json"
OPERATIONS = {
    "openai": ("responses", "/responses"),
    "anthropic": ("messages", "/v1/messages"),
    "gemini": ("generateContent", "/v1beta/models/m:generateContent"),
}


def read(body: bytes, dialect: str = "openai", content_type: str = JSON) -> Call:
    operation, tail = OPERATIONS[dialect]
    return DIALECTS[dialect].read(operation, tail, "", content_type, body)


# --- one meaning

NOT_ONE = {
    "empty": b"",
    "a list": b"[]",
    "open": b"{",
    "cut off": b'{"model": ',
    "a text": b'"model"',
    "null": b"null",
    "two documents": b'{"model":"a"}{"model":"b"}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"a"}',
    "UTF-16": '{"model":"a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model":"a"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"a"}'.encode("utf-32"),
    "no UTF-8": b'{"model":"a\xff"}',
    "a name that is no UTF-8": b'{"model":"a","x\xff":1}',
    "NaN": b'{"model":"a","temperature":NaN}',
    "Infinity": b'{"model":"a","input":[{"x":-Infinity}]}',
    "a comment": b'{"model":"a"/**/}',
    "a trailing comma": b'{"model":"a",}',
    "single quotes": b"{'model':'a'}",
    "half a surrogate": b'{"model":"a","input":"\\ud83d"}',
    "too deep": b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "doubled": b'{"model":"a","model":"b"}',
    "doubled, the same at first": b'{"model":"ab","x":1,"model":"a"}',
    "doubled, the last in front": b'{"model":12,"model":1}',
    "doubled with blanks": b'{ "model" : "a" , "x": {} ,\n"model" : "b" }',
    "doubled by another spelling": b'{"model":"a","mode\\u006c":"b"}',
    "another spelling alone": b'{"\\u006dodel":"a"}',
    "in capitals": b'{"model":"a","Model":"b"}',
    "in capitals alone": b'{"MODEL":"a"}',
    "another field doubled": b'{"model":"a","stream":false,"input":[],"stream":true}',
    "a number": b'{"model":3}',
    "a list of models": b'{"model":["a","b"]}',
    "a name without end": b'{"model":"' + b"a" * 1000 + b'"}',
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NOT_ONE)
def test_what_readers_may_read_differently(name: str, dialect: str) -> None:
    """It is said to be not read, with a reason that quotes nothing; nothing else is told of it."""
    if dialect == "gemini" and name in ("a number", "a list of models", "a name without end", "no UTF-8"):
        return  # its model is in the path
    call = read(NOT_ONE[name], dialect)
    assert call == Call(dialect, OPERATIONS[dialect][0], None, stream=False, unread=call.unread)
    assert call.unread


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("openai", b'{"model":"a","input":[{"id":"\xff"}]}'),
        ("openai", b'{"model":"a","previous_response_id":1e999}'),
        ("anthropic", b'{"model":"a","messages":[{"file_id":"\xff"}]}'),
        ("gemini", b'{"contents":[{"fileUri":1e999}]}'),
    ],
)
def test_what_may_bind_a_call_must_be_read(dialect: str, body: bytes) -> None:
    """A call is not taken for a free one because what binds it cannot be read."""
    assert read(body, dialect).unread


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b' \r\n\t{ "model" : "a" } \n',
        b'{"model":"a","input":[{"model":"b","Model":"c"}],"x":{"model":"d","model":"e"}}',
        b'{"model":"a", "x":[1] ,"model" : "a","x":[1]}',
        b'{"model":"a","":1,"modes":2,"models":3," model":4}',
        '{"model":"a","größe":"\\u00e4"}'.encode(),
        b'{"input":"\\"model\\":\\"b\\"","model":"a"}',
    ],
)
def test_what_all_read_alike(body: bytes) -> None:
    """Blanks, other fields, the same names further inside, a field that is there twice with one value."""
    assert (read(body).model, read(body).unread) == ("a", "")


def test_a_body_without_a_model_names_none() -> None:
    for body in (b"{}", b'{"model":null}', b'{"model":""}', b'{"messages":[]}'):
        assert (read(body).model, read(body).unread) == (None, "")


NAMES = st.sampled_from(["model", "Model", "stream", "input", "x", "größe", ""])
VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3), max_leaves=5)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]))
def test_a_doubled_field_is_always_seen(pairs: list[tuple[str, Any]], separators: tuple[str, str]) -> None:
    """Whatever stands between, and whatever the values are; unless they are the same."""
    comma, colon = separators
    fields = comma.join(f"{json.dumps(k, ensure_ascii=False)}{colon}{json.dumps(v)}" for k, v in pairs)
    body = f"{{{fields}}}".encode()
    names = {k for k, _ in pairs}
    if len({(k, json.dumps(v)) for k, v in pairs}) == len(names) and "Model" not in names:
        assert {k: json.loads(bytes(v)) for k, v in fields_in(body)[1].items()} == dict(pairs)
    else:
        with pytest.raises(NotReadError):
            fields_in(body)


# --- bounds

CROWDED = {
    "empty lists": b'{"model":"a","input":[{"id":1}' + b",[]" * 3_000_000 + b"]}",
    "empty objects": b'{"model":"a","messages":[{"id":1,"file_id":2}' + b",{}" * 3_000_000 + b"]}",
    "numbers": b'{"model":"a","contents":[1' + b",1" * 4_000_000 + b"]}",
    "texts": b'{"model":"a","input":[""' + b',""' * 3_000_000 + b"]}",
    "nested": b'{"model":"a","input":[[[[[[[[[[]]]]]]]]]' + b",[[[[[[[[[[]]]]]]]]]]" * 400_000 + b"]}",
    "fields": b'{"model":"a"' + b"".join(b',"k%d":1' % i for i in range(500_000)) + b"}",
    "fields inside": b'{"model":"a","input":[{"a":1' + b"".join(b',"k%d":1' % i for i in range(500_000)) + b"}]}",
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", CROWDED)
def test_a_crowded_body_is_not_built(name: str, dialect: str) -> None:
    """Neither in memory nor in time does it take more than a few times what its bytes take."""
    body = CROWDED[name]
    tracemalloc.start()
    try:
        assert read(body, dialect).unread == "its body has too many values"
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()
    began = time.process_time()
    read(body, dialect)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "crowded"),
    [
        (b"[" + b"1," * 99_999 + b"1]", False),
        (b"[" + b"1," * 100_000 + b"1]", True),
        (json.dumps(["a, b, [c], {d}" * 100_000]).encode(), False),
        (json.dumps(['say "a, b", then \\ or [c]' * 40_000]).encode(), False),
        (json.dumps({"text": "x, " * 200_000, "list": [1] * 100_001}).encode(), True),
        (json.dumps(["a, b, c " * 2_000_000]).encode(), True),
    ],
    ids=["at the bound", "above it", "commas in a text", "quotes in a text", "beside a text", "too long to look into"],
)
def test_what_is_in_texts_is_no_value(text: bytes, crowded: bool) -> None:
    """What people write is full of commas and brackets."""
    assert is_crowded(text) is crowded


@pytest.mark.parametrize("operation", ["embeddings", "completions"])
def test_lists_of_tokens_are_no_crowd(operation: str) -> None:
    """They may be long, for they are not looked into; names may not be many in any call."""
    tokens = json.dumps({"model": "a", "input": [list(range(1000))] * 300}).encode()
    assert DIALECTS["openai"].read(operation, "/x", "", JSON, tokens).model == "a"
    assert read(tokens).unread
    assert DIALECTS["openai"].read(operation, "/x", "", JSON, CROWDED["fields"]).unread


def test_a_text_of_backslashes_is_pruned_quickly() -> None:
    body = b'{"model":"a","input":"' + b"\\\\" * 10_000_000 + b'"}'
    began = time.process_time()
    assert read(body).model == "a"
    assert time.process_time() - began < 2
    assert json.loads(pruned(body))["input"]


# --- forms

PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FORM = "multipart/form-data; boundary=b"
MODEL = PART % (b"model", b"m")


def form(body: bytes, content_type: str = FORM) -> Call:
    return DIALECTS["openai"].read("audio/transcriptions", "/audio/transcriptions", "", content_type, body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, MODEL + PART % (b"model", b"n") + b"--b--\r\n"),
        (FORM, MODEL + b"--b--\r\n" + PART % (b"model", b"n") + b"--b--\r\n"),
        (FORM, MODEL),
        (FORM, MODEL.replace(b"\r\n", b"\n") + b"--b--\n"),
        (FORM, MODEL + b"--bb\r\n\r\n\r\n--b--\r\n"),
        (FORM, MODEL.replace(b'"model"', b'"x"; name="model"') + b"--b--\r\n"),
        (FORM, MODEL.replace(b'name="model"', b"name*=UTF-8''model") + b"--b--\r\n"),
        (FORM, MODEL.replace(b'"model"', b'"mo\\del"') + b"--b--\r\n"),
        (FORM, MODEL.replace(b"; name", b";\r\n name") + b"--b--\r\n"),
        (FORM, MODEL.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + b"--b--\r\n"),
        (FORM, MODEL.replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-7\r\n\r\n") + b"--b--\r\n"),
        (FORM, PART % (b"model", b"m" * 1000) + b"--b--\r\n"),
        (f"{FORM}; boundary=c", MODEL + b"--b--\r\n"),
        ("multipart/form-data", MODEL + b"--b--\r\n"),
        (FORM, b'{"model":"m"}'),
        (FORM, b""),
    ],
)
def test_a_form_that_readers_may_read_differently(content_type: str, body: bytes) -> None:
    call = form(body, content_type)
    assert call == Call("openai", "audio/transcriptions", None, stream=False, unread=call.unread)
    assert call.unread


@pytest.mark.parametrize(
    "before",
    [
        b"",
        PART % (b"file", b"name=model\r\n\r\nx"),
        PART.replace(b"; name", b'; filename="a; name=\\"model\\"; b"; name') % (b"file", b"x"),
        PART.replace(b"; name", b'; filename="model"; NAME') % (b"file", b"x--b\n--b--"),
        b"--b\r\n\r\nno header\r\n",
        b"--b \t\r\nX: y\r\n\r\nno name\r\n",
    ],
)
def test_a_form_that_all_read_alike(before: bytes) -> None:
    """Whatever the other parts hold."""
    assert (form(before + MODEL + b"--b--").model, form(before + MODEL + b"--b--\r\nepilogue").unread) == ("m", "")


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n\r\n\r\n" * 600_000 + b"--b--",
        b"--b\r\n" + b"content-disposition:" * 300_000 + b"\r\n\r\n\r\n--b--",
        b"--b\r\n" + b"content-disposition:" * 800 + b"\r\n\r\n\r\n--b--",
        b"--b\r\ncontent-disposition:" + b';name="' * 2_000 + b"\r\n\r\n\r\n--b--",
        b"--b\r\ncontent-disposition:" + b"; " * 7_000 + b"\r\n\r\n\r\n--b--",
        b"--b" * 2_000_000,
        b"\r\n--" * 1_500_000,
    ],
)
def test_a_form_takes_no_time(body: bytes) -> None:
    """In parts, in heads, in what is nearly a boundary: it grows with the length alone."""
    began = time.process_time()
    form(body)
    assert time.process_time() - began < 0.4


def test_a_field_that_is_there_twice_is_left_out_twice() -> None:
    body = PART % (b"x", b"1") + MODEL + PART % (b"x", b"2") + b"--b--"
    assert Form(FORM, body).without("x") == MODEL + b"--b--"
    assert Form(FORM, body).without("y") is body


def test_bounds_are_what_they_are_said_to_be() -> None:
    """The numbers above stand for these."""
    assert (bounds.MAX_VALUES, bodies.MAX_MODEL, forms.MAX_PARTS) == (100_000, 512, 1_000)


@pytest.mark.parametrize(("length", "read"), [(bodies.MAX_MODEL, True), (bodies.MAX_MODEL + 1, False)])
def test_how_long_a_models_name_may_be(length: int, read: bool) -> None:
    if read:
        assert bodies.named("m" * length) == "m" * length
    else:
        with pytest.raises(NotReadError):
            bodies.named("m" * length)


ODD_NAMES = {
    "a title for the terminal": "m\x1b]0;x\x07",
    "colours": "m\x1b[31m",
    "colours in one byte": "m\x9b31m",
    "a line of its own": "m\nsidestep: all is well",
    "a line to some": "m\u2028sidestep: all is well",
    "the other way round": "m\u202eabc",
    "nothing to be seen": "gpt\u200b-4o",
}


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_a_name_that_a_terminal_would_carry_out_is_none(odd: str) -> None:
    """Names of models are shown in the log, on the page and in a shell: control characters are in none, in whatever
    place a call has its name."""
    name = ODD_NAMES[odd]
    body = json.dumps({"model": name}).encode()
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--x--\r\n' % name.encode()
    realtime = DIALECTS["openai"].read("realtime.websocket", "/realtime", f"model={quote(name)}", "", b"")
    transcription = DIALECTS["openai"].read(
        "audio/transcriptions", "/audio/transcriptions", "", "multipart/form-data; boundary=x", form
    )
    for call in (read(body), read(body, "anthropic"), realtime, transcription):
        assert (call.model, call.unread) == (None, "its model is no name")
    assert read(json.dumps({"model": "llama 3 (große Fassung) 日本"}).encode()).model
