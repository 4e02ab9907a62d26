"""Which environment variables hold keys, and whether they are set."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep.config import catalog, keys

GROQ, OWN = "GROQ_API_KEY", "SIDESTEP_GROQ_API_KEY"


@pytest.mark.parametrize(
    ("env", "variable"),
    [
        ({}, None),
        ({GROQ: " \t"}, None),
        ({GROQ: "k"}, GROQ),
        ({GROQ: "k", OWN: ""}, GROQ),
        ({GROQ: "k", OWN: "s"}, OWN),
        ({OWN: "s"}, OWN),
    ],
)
def test_where_a_providers_key_is(env: dict[str, str], variable: str | None) -> None:
    """The variable for Sidestep alone comes first; one that is blank is as good as none."""
    assert keys.variable_of("groq", catalog.CATALOG["groq"], env) == variable


@pytest.mark.parametrize(
    ("name", "own"),
    [(OWN, True), ("SIDESTEP_API_KEY", False), (GROQ, False), (f"{OWN}_2", False), (f"MY_{OWN}", False)],
)
def test_which_are_for_sidestep_alone(name: str, own: bool) -> None:
    assert keys.is_for_sidestep(name) is own


def test_those_of_the_catalog() -> None:
    """All usual ones, and of Sidestep's own the vendors' and those that are set."""
    unset = keys.of_catalog({})
    assert not any(unset.values())
    assert OWN not in unset
    assert {GROQ, "SIDESTEP_OPENAI_API_KEY", "SIDESTEP_ANTHROPIC_API_KEY"} <= unset.keys()
    found = keys.of_catalog({OWN: "k", "OTHER_API_KEY": "k"})
    assert found == unset | {OWN: True}


@pytest.mark.parametrize(
    ("data", "keyed", "names"),
    [
        ({}, (), []),
        ({"providers": []}, (), []),
        ({"providers": "x"}, (), []),
        ({"providers": [5, {"name": "mine"}]}, ("mine",), []),
        ({"providers": [{"name": "groq"}]}, ("groq",), [GROQ]),
        ({"providers": [{"name": "groq"}]}, (), []),
        ({"providers": [{"name": "groq", "api_key": "${A} ${B}"}]}, ("groq",), ["A", "B"]),
        ({"providers": [{"name": "groq", "api_key": 5, "headers": []}]}, ("groq",), []),
        ({"providers": [{"name": "groq", "headers": {"X": "${C}", "Y": 5}}]}, ("groq",), ["C", GROQ]),
    ],
)
def test_those_that_a_file_names(data: dict[str, Any], keyed: tuple[str, ...], names: list[str]) -> None:
    """In its keys and headers, and by providers of the catalog that have one."""
    assert keys.of_file(data, keyed, {"A": "k"}) == {name: name == "A" for name in names}
    if keyed == ("groq",) and GROQ in names:
        assert keys.of_file(data, keyed, {OWN: "k"})[OWN] is True


def test_a_file_without_providers_has_the_catalogs() -> None:
    """Where it says no more than whether servers of this machine are used."""
    assert keys.of_file({"local": False}, (), {}) == keys.of_catalog({})
    assert keys.of_file({"local": True, "providers": [{"name": "x"}]}, (), {}) == {}
