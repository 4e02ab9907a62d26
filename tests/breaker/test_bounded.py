"""The one table for what comes from outside: bounded in entries and in bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidestep.breaker.bounded import ENTRY_BYTES, NAME_LENGTH, Bounded, bytes_of, short


def test_the_oldest_entry_goes_first() -> None:
    """What was put or used last stays, what was only looked at does not count as used."""
    table: Bounded[str, int] = Bounded(3, 1 << 20)
    for number, key in enumerate("abc"):
        table.put(key, number)
    assert (table.use("a"), table.get("b"), table.use("x")) == (0, 1, None)
    table.put("d", 3)
    assert list(table.items()) == [("c", 2), ("a", 0), ("d", 3)]
    assert table.oldest() == ("c", 2)


def test_the_bytes_count_too() -> None:
    """However few the entries are: large ones push others out, and one larger than the table is not kept."""
    table: Bounded[str, str] = Bounded(100, 10_000)
    for key in "abc":
        table.put(key, "x" * 4000)
    assert [key for key, _ in table.items()] == ["b", "c"]
    table.put("d", "x" * 10_000)
    assert [key for key, _ in table.items()] == ["b", "c"]
    table.put("c" * 9_000, "")
    assert len(table) == 1


def test_a_value_is_weighed_as_its_table_says() -> None:
    """Objects that are no texts have a size that their table knows."""
    table: Bounded[str, object] = Bounded(100, 3 * (ENTRY_BYTES + 1000), weigh=lambda _: 900)
    for key in "abcd":
        table.put(key, object())
    assert [key for key, _ in table.items()] == ["b", "c", "d"]


def test_what_is_put_again_is_weighed_anew() -> None:
    """A key has one entry, whose bytes are those of its latest value."""
    table: Bounded[str, str] = Bounded(9, 1 << 20)
    table.put("a", "x" * 1000)
    table.put("a", "")
    assert (len(table), table.bytes) == (1, ENTRY_BYTES + bytes_of("a") + bytes_of(""))
    assert (table.pop("a"), table.pop("a"), table.bytes, table.oldest()) == ("", None, 0, None)


VALUES = st.builds(lambda letter, times: letter * times, st.sampled_from("xéж漢🙂"), st.integers(0, 400))
STEPS = st.lists(st.tuples(st.sampled_from("pugk"), st.text(max_size=3), VALUES), max_size=60)


@given(STEPS)
def test_neither_bound_is_ever_passed(steps: list[tuple[str, str, str]]) -> None:
    """Whatever is put, used, forgotten: both bounds hold, and the bytes are those of the entries."""
    table: Bounded[tuple[str, int], str] = Bounded(5, 3000)
    for what, key, value in steps:
        if what == "p":
            table.put((key, 1), value)
            assert table.get((key, 1)) == value
        elif what == "u":
            assert table.use((key, 1)) == table.get((key, 1))
        elif what == "g":
            table.pop((key, 1))
        else:
            table.keep(lambda k, _, first=key: k[0] > first)  # type: ignore[misc]  # bound now
        assert len(table) <= 5
        assert table.bytes == sum(ENTRY_BYTES + bytes_of(k) + bytes_of(v) for k, v in table.items()) <= 3000


@given(st.text(max_size=600), st.text(max_size=600))
def test_a_long_name_is_cut_and_stays_apart(one: str, other: str) -> None:
    """Two names have one short form only if they are the same name."""
    assert len(short(one)) <= NAME_LENGTH
    assert (short(one) == short(other)) is (one == other)
    long = "m" * 10_000
    assert short(long + "a") != short(long + "b")
