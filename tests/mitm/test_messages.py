"""Messages are checked as mitmproxy checks them, whichever check is in its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http, options
from mitmproxy.optmanager import _Option

from sidestep.mitm.messages import QuickCheck, QuickLookup, QuickOptions

REQUEST: dict[str, Any] = {
    "host": "h",
    "port": 80,
    "method": b"GET",
    "scheme": b"http",
    "authority": b"",
    "path": b"/",
    "http_version": b"HTTP/1.1",
    "headers": http.Headers(),
    "content": b"x",
    "trailers": None,
    "timestamp_start": 1.0,
    "timestamp_end": None,
}


class Text(bytes):
    """A type of a script's own."""


ODD: dict[str, dict[str, Any]] = {
    "nothing odd": {},
    "an integer for a time": {"timestamp_start": 1},
    "a subclass": {"path": Text(b"/")},
    "a flag for a number": {"port": True},
    "text for bytes": {"method": "GET"},
    "a number as text": {"port": "80"},
    "no headers": {"headers": None},
    "no body": {"content": None},
    "a list for a body": {"content": []},
}


@pytest.fixture(params=["mitmproxy's", "quick"])
def check(request: pytest.FixtureRequest) -> Iterator[None]:
    quick = QuickCheck()
    if request.param == "quick":
        quick.install()
    yield
    quick.remove()


def came_of(**fields: Any) -> str:
    try:
        http.RequestData(**{**REQUEST, **fields})
    except TypeError as e:
        return str(e)
    return "made"


EXPECTED = {name: came_of(**fields) for name, fields in ODD.items()}


@pytest.mark.parametrize("name", ODD)
def test_each_check_says_the_same(name: str, check: None) -> None:
    assert came_of(**ODD[name]) == EXPECTED[name]


def test_the_table_has_good_and_bad() -> None:
    assert len(set(EXPECTED.values())) == 5, EXPECTED


def test_a_good_message_takes_the_quick_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    own = vars(http.MessageData)["__post_init__"]

    def counted(data: http.MessageData) -> None:
        asked.append(type(data).__name__)
        own(data)

    counted.__module__ = http.MessageData.__module__
    monkeypatch.setattr(http.MessageData, "__post_init__", counted)
    quick = QuickCheck()
    quick.install()
    try:
        http.Response.make(200, b"x")
        http.RequestData(**REQUEST)
        assert asked == []
        http.RequestData(**{**REQUEST, "path": Text(b"/")})
        assert asked == ["RequestData"]
    finally:
        quick.remove()
    assert vars(http.MessageData)["__post_init__"] is counted


def test_another_s_check_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(data: http.MessageData) -> None:
        raise AssertionError

    monkeypatch.setattr(http.MessageData, "__post_init__", theirs)
    quick = QuickCheck()
    quick.install()
    assert vars(http.MessageData)["__post_init__"] is theirs
    quick.remove()
    assert vars(http.MessageData)["__post_init__"] is theirs


# --- fields


NAMES = st.sampled_from(["host", "Host", "x-a", "X-A", "set-cookie", "", "ü", "x\udcff"])
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"Host", b"host", b"X-A", b"x-a", b"Set-Cookie", b"", "ü".encode(), b"x\xff"]),
        st.binary(max_size=5),
    )
)


def found(fields: http.Headers, name: Any) -> list[Any]:
    """All ways to look a field up."""
    ways: list[Any] = [
        lambda: fields.get_all(name),
        lambda: fields.get(name),
        lambda: fields.get(name, "none"),
        lambda: fields[name],
        lambda: name in fields,
        lambda: fields.pop(name, "none"),
        lambda: list(fields.items()),
    ]
    came = []
    for way in ways:
        try:
            came.append(way())
        except Exception as e:
            came.append((type(e), str(e)))
    return came


@given(FIELDS, st.one_of(NAMES, NAMES.map(lambda name: name.encode("utf-8", "surrogateescape")), st.just(7), st.none()))
def test_fields_are_found_as_mitmproxy_finds_them(fields: list[tuple[bytes, bytes]], name: Any) -> None:
    own = found(http.Headers(fields), name)
    quick = QuickLookup()
    quick.install()
    try:
        assert found(http.Headers(fields), name) == own
    finally:
        quick.remove()


def test_looking_fields_up_leaves_no_trace() -> None:
    before = dict(vars(http.Headers))
    first, second = QuickLookup(), QuickLookup()
    first.install()
    assert vars(http.Headers) != before
    second.install()
    second.remove()
    assert vars(http.Headers)["get_all"] is not before["get_all"]
    first.remove()
    assert vars(http.Headers) == before


# --- options


def test_options_are_read_as_mitmproxy_reads_them() -> None:
    """All that there are, by default and set; what may be changed is a copy, as it is without us."""

    def read() -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        made = options.Options()
        before = {name: getattr(made, name) for name in made.keys()}  # noqa: SIM118
        made.update(ssl_insecure=True, listen_host="127.0.0.1", confdir="c", ignore_hosts=["a"])
        after = {name: getattr(made, name) for name in made.keys()}  # noqa: SIM118
        made.ignore_hosts.append("b")
        return before, after, made.ignore_hosts

    own, original = read(), vars(_Option)["current"]
    quick = QuickOptions()
    quick.install()
    try:
        assert vars(_Option)["current"] is not original
        assert read() == own
        assert own[2] == ["a"]
    finally:
        quick.remove()
    assert vars(_Option)["current"] is original
