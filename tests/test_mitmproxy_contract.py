"""What Sidestep touches inside mitmproxy is named in one table, is there, and is missed when it is not."""

from __future__ import annotations

import ast
import enum
import functools
import importlib
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

from sidestep.mitm import expected
from sidestep.mitm.expected import FACTS, FACTS_OF_RUN, FACTS_OF_WORKERS, Fact, Function, Kept, Made, missing
from support.proxy import ROOT

ADDON = ROOT / "addon"
ALL = FACTS + FACTS_OF_RUN + FACTS_OF_WORKERS
NAMES = {str(fact) for fact in ALL}
# What mitmproxy's documentation has a page for, and its version.
DOCUMENTED = frozenset(
    f"mitmproxy.{name}"
    for name in (
        *("addonmanager.Loader", "certs", "command", "connection", "contentviews", "ctx", "exceptions", "flow", "http"),
        *("log", "net.server_spec", "proxy.mode_specs", "proxy.server_hooks", "tls", "version", "websocket"),
    )
)


def test_all_is_there() -> None:
    assert missing(ALL) == []


def test_no_name_is_listed_twice() -> None:
    assert len(NAMES) == len(ALL)


def test_the_files_that_are_named_exist() -> None:
    """A file that the table says relies on a name is where the table says."""
    for fact in ALL:
        for file in fact.needed_by:
            assert (ADDON / "sidestep" / file).is_file(), fact


# --- taken away


def owners(fact: Fact) -> tuple[Any, ...]:
    """Where a name is kept: its module, or its class and those that it is derived from."""
    found: Any = importlib.import_module(fact.module)
    for name in fact.name.split(".")[:-1]:
        found = getattr(found, name)
    return found.__mro__ if isinstance(found, type) else (found,)


def without(function: FunctionType, name: str) -> FunctionType:
    """The same function with another name in this one's place."""
    names = tuple("gone" if n == name else n for n in function.__code__.co_names)
    return FunctionType(function.__code__.replace(co_names=names), function.__globals__, closure=function.__closure__)


def take_away(fact: Fact, monkeypatch: pytest.MonkeyPatch) -> None:
    last = fact.name.rpartition(".")[2]
    for owner in owners(fact):
        if isinstance(fact.what, Kept):
            function = vars(owner).get(fact.what.by)
            if isinstance(function, FunctionType):
                monkeypatch.setattr(owner, fact.what.by, without(inspect.unwrap(function), last))
        elif isinstance(owner, enum.EnumType):
            if last in owner.__members__:  # members cannot be deleted
                fewer = enum.Enum(owner.__name__, [n for n in owner.__members__ if n != last])  # type: ignore[misc]
                monkeypatch.setattr(importlib.import_module(fact.module), owner.__name__, fewer)
        elif last in vars(owner) and owner is not object:
            monkeypatch.delattr(owner, last)


@pytest.mark.parametrize("fact", ALL, ids=str)
def test_what_is_taken_away_is_named(fact: Fact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the table goes, `missing` says its name."""
    take_away(fact, monkeypatch)
    last = fact.name.rpartition(".")[2]
    assert [m for m in missing((fact,)) if last in m]


@pytest.mark.parametrize("module", sorted({fact.module for fact in ALL}))
def test_a_module_that_is_gone_is_named_once(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert missing([fact for fact in ALL if fact.module == module]) == [f"the module {module} is not there"]


class Parent:
    pass


class Child(Parent):
    def __init__(self, one: int, two: int = 0) -> None:
        self.one = one

    def plain(self, a: int, *, b: int = 0) -> None:
        pass

    def steps(self, a: int) -> Iterator[int]:
        yield a

    async def waits(self) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "what", "fault"),
    [
        ("Child", Made(("one",), "Parent"), None),
        ("Child", Made(("one", "two"), "Parent"), "Child does not keep (two)"),
        ("Child", Made((), "Other"), "Child is not derived from Other"),
        ("Child", Made(("two",)), "Child is made of (one, two), expected (two)"),
        ("Child.plain", Made(), "Child.plain is not a class"),
        ("Child.plain", Function(("a", "b")), None),
        ("Child.plain", Function(("a",)), "Child.plain takes (a, b), expected (a)"),
        ("Child.plain", Function(("b", "a")), "Child.plain takes (a, b), expected (b, a)"),
        ("Child.plain", Function(("a", "b"), "generator"), "Child.plain is not a generator"),
        ("Child.steps", Function(("a",), "generator"), None),
        ("Child.steps", Function(("a",)), "Child.steps is not a plain function"),
        ("Child.waits", Function((), "coroutine"), None),
        ("Child.__module__", Function(), "Child.__module__ is not a function"),
        ("Child.one", Kept(), None),
        ("Child.two", Kept(), "Child does not set two"),
        ("Child.one", Kept("plain"), "Child does not set one"),
        ("ALL.one", Kept(), "ALL is not a class"),
        ("Nothing.one", Kept(), "Nothing is not there"),
        ("Nothing", Made(), "Nothing is not there"),
    ],
    ids=str,
)
def test_what_has_changed_is_said(
    name: str, what: Made | Function | Kept, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else in a name's place is as bad as nothing."""
    monkeypatch.setitem(sys.modules, "here", sys.modules[__name__])
    assert missing([Fact("here", name, what, ())]) == ([] if fault is None else [f"here.{fault}"])


# --- the table is whole


@functools.cache
def trees() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ADDON)), ast.parse(path.read_text())) for path in sorted(ADDON.rglob("*.py"))]


def is_module(name: str) -> bool:
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except ImportError:
            return False
    return True


def imported(tree: ast.Module) -> dict[str, str]:
    """Names in a file by what of mitmproxy they stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mitmproxy":
            found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            assert not [alias for alias in node.names if alias.name.startswith("mitmproxy")], "import it by `from`"
    return found


def is_documented(name: str) -> bool:
    return name in DOCUMENTED or name.rpartition(".")[0] in DOCUMENTED


def test_what_is_imported_is_in_the_table() -> None:
    """No file of the addon takes an undocumented name out of a module of mitmproxy that the table does not have."""
    unlisted = set()
    for path, tree in trees():
        names = imported(tree)
        used = {name for name in names.values() if not is_module(name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
                module = names[node.value.id]
                if is_module(module):
                    used.add(f"{module}.{node.attr}")
        unlisted |= {f"{path}: {name}" for name in used if name not in NAMES and not is_documented(name)}
    assert not unlisted


def derived() -> Iterator[tuple[type, type, ast.ClassDef]]:
    """Classes of ours that are derived from mitmproxy's, with the nearest of those and their text."""
    for path in sorted((ADDON / "sidestep" / "mitm").glob("*.py")):
        module = importlib.import_module(f"sidestep.mitm.{path.stem}")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                cls = getattr(module, node.name)
                for base in cls.__mro__:
                    if base.__module__.startswith("mitmproxy."):
                        yield cls, base, node
                        break


def is_listed(base: type, name: str) -> bool:
    return any(f"{cls.__module__}.{cls.__qualname__}.{name}" in NAMES for cls in base.__mro__)


def own_names(cls: type) -> set[str]:
    """What a class says itself that its instances have."""
    ours = [c for c in cls.__mro__ if c.__module__.startswith("sidestep.")]
    return {name for c in ours for name in (*vars(c), *inspect.get_annotations(c))}


def test_what_is_overridden_or_used_of_a_base_class_is_in_the_table() -> None:
    """A class derived from one of mitmproxy's replaces, and reaches by `self` or `super()`, what the table has."""
    unlisted = set()
    seen = 0
    for cls, base, node in derived():
        seen += 1
        there = {name for c in base.__mro__[:-1] for name in vars(c)}
        used = {name for name in vars(cls) if name in there and inspect.isfunction(vars(cls)[name])}
        for inner in ast.walk(node):
            if not isinstance(inner, ast.Attribute):
                continue
            of = inner.value
            by_self = isinstance(of, ast.Name) and of.id == "self" and inner.attr not in own_names(cls)
            by_super = isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super"
            if by_self or by_super:
                used.add(inner.attr)
        used = {name for name in used if not name.startswith("__")}  # what every class has is no name of mitmproxy's
        unlisted |= {f"{cls.__qualname__}.{name}" for name in used if not is_listed(base, name)}
    assert seen >= 5
    assert not unlisted


def test_no_name_of_mitmproxys_has_a_fallback() -> None:
    """Nothing in the table is reached by `getattr` with a default or asked for with `hasattr`."""
    private = {fact.name.rpartition(".")[2] for fact in ALL}
    found = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                name = node.args[1]
                if isinstance(name, ast.Constant) and name.value in private:
                    found.add(f"{path}:{node.lineno} {name.value}")
    assert not found


# --- the versions


def test_the_range_is_the_one_that_is_required() -> None:
    """What the log calls supported is what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"mitmproxy{expected.SUPPORTED}" in project["dependencies"]


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        *[(v, True) for v in ("12.1", "12.1.0", "12.3.1", "12.99.0", "12.4.0.dev")],
        *[(v, False) for v in ("12.0.9", "11.1.3", "13.0.0", "13.0.0.dev", "14.0", "unknown", "", "12", "12.x")],
    ],
)
def test_versions(version: str, supported: bool) -> None:
    assert expected.is_supported(version) is supported


# --- before the check


def test_the_addon_loads_where_nothing_is_there() -> None:
    """What may be missing is not imported before it was looked for: a start cannot fail on it."""
    modules = sorted({fact.module for fact in FACTS} - {"mitmproxy.addonmanager", "mitmproxy.http"})
    code = (
        "import sys, mitmproxy.tools.dump\n"
        f"sys.modules.update(dict.fromkeys({modules!r}))\n"
        "from sidestep import Sidestep\n"
        "from sidestep.mitm.expected import missing\n"
        "Sidestep(); print(*missing(), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ADDON, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {f"the module {module} is not there" for module in modules} <= set(done.stdout.splitlines())
