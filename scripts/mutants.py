"""Makes small mistakes in the pure rooms, one at a time, and tells which of them the quick suite does not notice.

    ./scripts/mutants [--seed N] [--sample K] [--jobs N] [PLACE…]

A PLACE is a folder (`routing`), a file (`routing/table.py`) or a line of it (`routing/table.py:150`) under
addon/sidestep; by default, all pure rooms. The sample is drawn with the seed: the same seed, sample, places and sources
give the same mutants, and a sample of 0 means all of them. The exit code is 1 if fewer than 90 % were killed.

A mutant is never written: each is tried in a fork of this process, which has imported what the tests need of others and
compiles the one file with the mistake in it. The quick suite is run once without a mutant, to learn by coverage which
tests run through which line (a temporary file keeps that for the next time that the tree is the same); a mutant is then
tried by those tests alone, the ones of its own folder first. What is run at import only, a table or a default, is tried
by the tests of its room and of those that import it. A test that fails, or a run that takes too long, has killed the
mutant.

Not made are mutants that nobody could tell from the original: of docstrings, annotations, decorators, `assert`,
`__repr__`, log lines and `strict=`; and of limits whose magnitude is a choice, round numbers from 100 on that have a
name (`MAX_INDEX = 1_000`, `READ_BYTES = 4 << 20`): one more or less of them is no mistake, and tests that spell them
again would only have to be changed with them. Strings are left as they are.

mutmut and cosmic-ray were looked at. Neither draws a seeded sample; mutmut 3 leaves out tables and properties and keeps
its copies inside the tree, and cosmic-ray changes the files in place.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path("addon/sidestep")
PURE = (
    "breaker",
    "calls/decoding.py",
    "calls/frames.py",
    "calls/holding.py",
    "calls/replies.py",
    "calls/story.py",
    "calls/watching.py",
    "config",
    "credentials.py",
    "dialects",
    "fleet/claims.py",
    "fleet/ledger.py",
    "fleet/names.py",
    "forwarding.py",
    "leaks.py",
    "overview.py",
    "routing",
    "status.py",
    "telemetry.py",
    "workers/crew.py",
)
TARGET = 0.9
QUICK = ["tests", "--ignore=tests/e2e"]
PYTEST = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
READ = (".github", "LICENSE", "README.md", "addon", "pyproject.toml", "scripts", "tests")
"""What the quick suite depends on."""
IMPORTED = (
    *("hypothesis.stateful", "mitmproxy.addonmanager", "mitmproxy.proxy.layers.http", "mitmproxy.test.tflow"),
    *("anthropic", "genai_prices", "google.genai", "httpx", "msgspec", "openai", "prometheus_client"),
)
"""What takes long to import and is not ours."""
TIMES_AS_LONG = 3.0
"""A mutant's tests are given so many times what the whole quick suite took without it, in parallel: what takes longer
hangs."""
MOST_NAMED = 200
"""Tests that are named one by one; of more than these, their files are."""
SHOWN = 110
"""Letters of a change that are printed."""

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
LOGGERS = frozenset({"logger", "logging", "warnings"})
NEVER_DROPPED = frozenset({"strict"})
"""Keyword arguments that only guard against bugs."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: a node of a file's tree, and what stands in its place. `file` is relative to addon/sidestep."""

    file: str
    line: int
    statement: range
    """The lines of its statement up to the mistake: by these is known who runs it."""
    tree: ast.Module
    old: ast.AST
    new: ast.AST

    @property
    def source(self) -> str:
        """The whole file with the mistake in it."""
        # The copy holds the very same node, so that it can be found there.
        copied = copy.deepcopy(self.tree, {id(self.old): self.old})
        return ast.unparse(ast.fix_missing_locations(Replace(self.old, self.new).visit(copied)))

    def __str__(self) -> str:
        return f"{SOURCES / self.file}:{self.line}  {shown(self.old, self.new)}"


# --- making them


class Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old = old
        self.new = new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """A node's own children, without those in which a mistake would not show."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if isinstance(node, ast.ClassDef) and name == "keywords":
            continue
        yield from (v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST))


def is_silent(node: ast.AST) -> bool:
    """Whether no test could tell a mistake in it."""
    if isinstance(node, ast.FunctionDef):
        return node.name == "__repr__"
    if isinstance(node, ast.Expr):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        logs = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in LOGGERS
        return logs or isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        return isinstance(target, ast.Name) and target.id.isupper() and is_round(node.value)
    return isinstance(node, (ast.Assert, ast.Import, ast.ImportFrom)) or (
        isinstance(node, ast.keyword) and node.arg in NEVER_DROPPED
    )


def is_round(value: ast.AST) -> bool:
    """Whether it is a number from 100 on that was chosen for its magnitude: one or two digits and zeros, a power of
    two, or one that is shifted."""
    match value:
        case ast.BinOp(left=ast.Constant(), op=ast.LShift(), right=ast.Constant()):
            return True
        case ast.Constant(value=int(number) | float(number)) if number >= 100 and number == int(number):
            return len(str(int(number)).rstrip("0")) <= 2 or int(number).bit_count() == 1
    return False


def mistakes(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in a node's place."""
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield ast.Compare(node.left, [*ops[:i], COMPARED[type(op)](), *ops[i + 1 :]], node.comparators)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in COMPUTED and not has_text(node):
            yield ast.BinOp(left, COMPUTED[type(op)](), right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
            if value in (1, 2):
                yield ast.Constant(value - 1)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in CALLED:
            yield ast.Call(ast.Name(CALLED[name]), args, keywords)
        case ast.IfExp(test=test, body=body, orelse=orelse) if is_plain(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.If(test=test, body=body, orelse=orelse) if is_plain(test):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.While(test=test, body=body, orelse=orelse) if is_plain(test):
            yield ast.While(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value=value) if value is not None and not is_no(value):
            yield ast.Return(ast.Constant(None))
        case ast.Continue():
            yield ast.Break()
        case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
    if isinstance(node, ast.Call):
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in NEVER_DROPPED:
                yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])


def is_plain(test: ast.expr) -> bool:
    """Whether no other mistake already turns this condition round."""
    return not isinstance(test, (ast.Compare, ast.BoolOp)) and not (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    )


def is_no(node: ast.AST) -> bool:
    """Whether callers take it for no already."""
    return isinstance(node, ast.Constant) and node.value in (None, False)


def has_text(node: ast.AST) -> bool:
    """Whether arithmetic with it would only raise."""
    if isinstance(node, ast.BinOp):
        return has_text(node.left) or has_text(node.right)
    return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict)) or (
        isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, bytes)))
    )


def shown(old: ast.AST, new: ast.AST) -> str:
    """The change in a line: what two texts have in common at the ends is left out of a long one."""
    before, after = (" ".join(ast.unparse(ast.fix_missing_locations(n)).split()) for n in (old, new))
    if isinstance(new, ast.Pass):
        return f"dropped: {before[:SHOWN]}"
    if len(before) + len(after) > SHOWN:
        same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        start = max(0, same - SHOWN // 4)
        before, after = before[start : start + SHOWN // 2], after[start : start + SHOWN // 2]
    return f"{before} → {after}"


def mutants_of(path: Path, file: str) -> Iterator[Mutant]:
    """All mutants of one file, in the order of its lines."""
    tree = ast.parse(path.read_text())
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting:
        node, first = waiting.pop()
        if is_silent(node):
            continue
        if isinstance(node, ast.stmt):
            first = node.lineno
        waiting.extend((part, first) for part in reversed(list(parts(node))))
        for new in mistakes(node):
            assert isinstance(node, (ast.expr, ast.stmt))
            statement = range(first, node.lineno + 1)
            yield Mutant(file, node.lineno, statement, tree, node, ast.copy_location(new, node))


def all_mutants(places: list[str]) -> list[Mutant]:
    """Those of these places, by file and line. ValueError: there is no such place."""
    found = []
    for place in places:
        name, _, line = place.partition(":")
        path = ROOT / SOURCES / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            if not file.is_file():
                if place in PURE:
                    continue
                raise ValueError(f"expected a folder or file under {SOURCES}, found {place}")
            of_file = mutants_of(file, file.relative_to(ROOT / SOURCES).as_posix())
            found += [m for m in of_file if not line or m.line == int(line)]
    return found


# --- killing them


Tests = dict[str, dict[int, set[str]]]
"""Of each file, the tests that run through each line; an empty set for a line that is run at import only."""


def learnt(jobs: int) -> tuple[Tests, float]:
    """What the quick suite runs through, and the seconds that it took: measured anew where the tree has changed."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(p for name in READ for p in (ROOT / name, *(ROOT / name).rglob("*")) if p.is_file()):
        if "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
    kept = Path(tempfile.gettempdir(), f"sidestep-mutants-{os.getuid()}-{digest.hexdigest()[:32]}.json")
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        told = json.loads(kept.read_text())
        tests = {f: {int(line): set(names) for line, names in lines.items()} for f, lines in told["tests"].items()}
        return tests, float(told["seconds"])
    began = time.monotonic()
    tests = tests_by_line(jobs)
    seconds = time.monotonic() - began
    told = {f: {line: sorted(names) for line, names in lines.items()} for f, lines in tests.items()}
    kept.write_text(json.dumps({"tests": told, "seconds": seconds}))
    return tests, seconds


def tests_by_line(jobs: int) -> Tests:
    """What the quick suite runs through. SystemExit: it fails without a mutant."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        data, report = Path(place, "measured"), Path(place, "measured.json")
        # The monitoring of newer Pythons is quicker, but cannot tell one test from another.
        environment = {**os.environ, "COVERAGE_CORE": "ctrace", "COVERAGE_FILE": str(data)}
        command = [*PYTEST, "-x", *QUICK, "-n", str(jobs), "--cov", "--cov-context=test", "--cov-report="]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout[-2000:]}\nthe quick suite fails without a mutant")
        command = ["json", "-q", "--show-contexts", f"--data-file={data}", "-o", str(report)]
        subprocess.run([sys.executable, "-m", "coverage", *command], cwd=ROOT, check=True)
        files = json.loads(report.read_text())["files"]
    found: Tests = {}
    for path, measured in files.items():
        # A context is a test's name, and after a bar whether it was its body or what made it ready.
        found[Path(path).relative_to(SOURCES).as_posix()] = {
            int(line): {context.partition("[")[0].partition("|")[0] for context in contexts if context}
            for line, contexts in measured["contexts"].items()
        }
    return found


def tests_for(mutant: Mutant, tests: Tests) -> list[str]:
    """The tests that can notice a mutant, those of its room and folder first."""
    by_line = tests[mutant.file]
    if not any(line in by_line for line in mutant.statement):
        return []
    names = {name for line in mutant.statement for name in by_line.get(line, ())}
    if not names:
        names = tests_of_importers(mutant.file, tests)
    elif len(names) > MOST_NAMED:
        names = {name.partition("::")[0] for name in names}
    folder = Path("tests", mutant.file).parent.as_posix()
    room = f"{folder}/test_{Path(mutant.file).stem}.py"
    return sorted(names, key=lambda n: (not n.startswith(room), not n.startswith(folder + "/"), n))


def tests_of_importers(file: str, tests: Tests) -> set[str]:
    """The files of tests that run through a room or one that imports it, or that import it themselves: what is made at
    import only shows there."""
    folder, _, room = file.removesuffix(".py").rpartition("/")
    package = ".".join(["sidestep", *folder.split("/")]).rstrip(".")
    imports = re.compile(rf"\b{re.escape(package)}(\.{room}\b| import [^\n]*\b{room}\b)")

    def importers(place: Path) -> Iterator[Path]:
        return (path for path in place.rglob("*.py") if imports.search(path.read_text()))

    rooms = {file, *(path.relative_to(ROOT / SOURCES).as_posix() for path in importers(ROOT / SOURCES))}
    names = {name.partition("::")[0] for r in rooms for ran in tests.get(r, {}).values() for name in ran}
    own = (path.relative_to(ROOT) for path in importers(ROOT / "tests") if path.name.startswith("test_"))
    return names | {path.as_posix() for path in own if path.parts[1] != "e2e"}


class Run:
    """A mutant that is being tried, in a fork with a process group of its own. State: the process, and when it must
    have ended."""

    def __init__(self, mutant: Mutant, tests: list[str], seconds: float) -> None:
        self.mutant = mutant
        self.until = time.monotonic() + seconds
        self.process = os.fork()
        if self.process == 0:
            try:
                os.setsid()
                code = tried(mutant, tests)
            except BaseException:
                code = 1  # as where the mutant cannot even be imported
            os._exit(code)

    def survived(self) -> bool | None:
        """Whether all tests passed; None while that is open. Whoever takes too long has failed."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if ended:
            self._sweep()
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() < self.until:
            return None
        self.end()
        return False

    def end(self) -> None:
        self._sweep()
        os.waitpid(self.process, 0)

    def _sweep(self) -> None:
        """Nothing that was started remains."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


def tried(mutant: Mutant, tests: list[str]) -> int:
    """What pytest says of these tests where the file has the mistake in it. Only for a process that then ends."""
    path = str(ROOT / SOURCES / mutant.file)
    source, get_code = mutant.source, SourceFileLoader.get_code

    def mistaken(self: SourceFileLoader, name: str) -> CodeType | None:
        if str(Path(self.path).resolve()) == path:
            code: CodeType = compile(source, path, "exec", dont_inherit=True)
            return code
        return get_code(self, name)

    SourceFileLoader.get_code = mistaken  # type: ignore[assignment, method-assign]
    with open(os.devnull, "r+b") as nowhere:
        for told in (0, 1, 2):
            os.dup2(nowhere.fileno(), told)
    return int(pytest.main([*PYTEST, "-x", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]))


def survivors_of(sample: list[Mutant], jobs: int) -> list[Mutant]:
    """Those of the sample that no test of the quick suite notices."""
    survivors: list[Mutant] = []
    waiting = sample[::-1]
    done = 0

    def judged(mutant: Mutant, survived: bool, why: str = "") -> None:
        nonlocal done
        done += 1
        print(f"{done:4}/{len(sample)} {'SURVIVED' if survived else 'killed  '} {mutant}{why}", flush=True)
        if survived:
            survivors.append(mutant)

    tests, whole = learnt(jobs)
    print(f"the quick suite passes without a mutant, in {whole:.0f} s", flush=True)
    for name in IMPORTED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    runs: list[Run] = []
    try:
        while waiting or runs:
            while waiting and len(runs) < jobs:
                mutant = waiting.pop()
                if chosen := tests_for(mutant, tests):
                    runs.append(Run(mutant, chosen, TIMES_AS_LONG * whole))
                else:
                    judged(mutant, survived=True, why="  (no test runs it)")
            for run in tuple(runs):
                if (survived := run.survived()) is not None:
                    runs.remove(run)
                    judged(run.mutant, survived)
            time.sleep(0.02)
    finally:
        for run in runs:
            run.end()
    return survivors


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=100, metavar="K", help="how many; 0: all (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="at the same time (default: %(default)s)")
    parser.add_argument("places", nargs="*", metavar="PLACE", help="under addon/sidestep (default: all pure rooms)")
    options = parser.parse_args()
    try:
        found = all_mutants(options.places or list(PURE))
    except ValueError as e:
        parser.error(str(e))
    drawn = random.Random(options.seed).sample(range(len(found)), min(options.sample or len(found), len(found)))
    sample = [found[i] for i in sorted(drawn)]
    if not sample:
        parser.error("there are no mutants of these places")
    os.chdir(ROOT)
    # Ended from outside it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{len(sample)} of {len(found)} mutants, seed {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as found_by_hypothesis:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = found_by_hypothesis
        survivors = survivors_of(sample, options.jobs)
    killed = len(sample) - len(survivors)
    print(f"\n{killed} of {len(sample)} killed ({killed / len(sample):.0%}) in {time.monotonic() - began:.0f} s")
    if survivors:
        print("not noticed:")
        for mutant in sorted(survivors, key=lambda m: (m.file, m.line)):
            print(f"  {mutant}")
    return int(killed < TARGET * len(sample))


if __name__ == "__main__":
    raise SystemExit(main())
