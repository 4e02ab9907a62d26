"""The same provider, alone, behind a bare mitmdump and behind Sidestep with its default configuration.

Recipes come from `recipes`, readings from `rawreading`. Here they are brought together: a provider that plays recipes,
two proxies, and the verdict on each pair of readings: equal, better in a way that has a name in `NAMED`, or worse.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from support.calls import APIS, Client, Result
from support.h2provider import H2Provider, server_context
from support.operations import OPERATIONS
from support.provider import Behaviour, Provider, Seen
from support.proxy import ADDON, Mitmdump
from support.rawreading import Reading, Turn, read
from support.recipes import PATHS, WIRES, Act, Recipe, Step, plain
from support.verdicts import Verdict, judge, judge_request, judge_sdk

STREAMING = """def responseheaders(flow):
    flow.response.stream = True
"""
"""What somebody who puts an app behind mitmproxy sets: without it an event stream is swallowed whole."""

BATCH = 150
"""Cases for which one pair of proxies serves: each case has a provider of its own, so that no circuit is opened by
the case before."""
STALL_SECONDS = 1.5
PATIENCE_SECONDS = 5.0
BYTES_A_SECOND = 1_000_000
"""What a busy machine carries at least."""
TIMING_TRIES = 3
SDK_EVERY = 10


@dataclass
class Played:
    """A recipe that is being asked for at one base URL: how often each of its turns was, and on which connections."""

    turns: list[Recipe]
    attempts: Counter[int] = field(default_factory=Counter)
    seen: list[Seen] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)


class Plays:
    """Mixed into a provider: answers at `/NAME/…` by the recipe of that name."""

    def play(self, name: str, recipe: Recipe) -> None:
        turns = [recipe] if recipe.earlier is None else [recipe.earlier, recipe]
        self.__dict__.setdefault("played", {})[name] = Played(turns)

    async def _answer(
        self, seen: Seen, b: Behaviour, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        name = seen.path.split("/")[1]
        if name in SPARES.values():
            return await self._steps(spare_for(seen).steps(), seen, reader, writer)
        played: Played = self.__dict__["played"][name]
        played.seen.append(seen)
        turn = min(int(seen.header("x-turn") or len(played.turns) - 1), len(played.turns) - 1)
        recipe = played.turns[turn]
        if recipe.breaks_idle and seen.connection in played.connections:
            return False
        played.connections.add(seen.connection)
        if not played.attempts[turn] and recipe.first is not None:
            recipe = recipe.first
        played.attempts[turn] += 1
        return await self._steps(recipe.steps(), seen, reader, writer)

    async def _steps(
        self, steps: list[Step], seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        watching = asyncio.ensure_future(Provider._watch_client(seen, reader))
        try:
            for step in steps:
                match step:
                    case bytes():
                        writer.write(step)
                        await writer.drain()
                        await asyncio.sleep(0)
                    case Act.CLOSE:
                        return False
                    case Act.RESET:
                        Provider._rst(writer)
                        return False
                    case Act.STALL:
                        await asyncio.wait([watching], timeout=60)
                        return False
                    case _:
                        await asyncio.sleep(float(step))
            return True
        finally:
            watching.cancel()


SPARES = {d: f"spare-{d}" for d in ("openai", "anthropic", "gemini")}
"""Stand-ins that are well, by dialect."""
BY_SPARE = "S"


def spare_for(seen: Seen) -> Recipe:
    """A good answer of a stand-in to whatever it is asked."""
    tail = "/" + seen.path.partition("?")[0].split("/", 2)[2].removeprefix(
        "v1/" if SPARES["openai"] in seen.path else ""
    )
    paths = {api: path for api, path in PATHS.items() if api != "gemini"} | {k: o.path for k, o in OPERATIONS.items()}
    api = next((api for api, path in paths.items() if path == tail), "gemini")
    if api == "gemini" and "stream" in tail and "alt=sse" not in seen.path:
        api = "array"
    stream = "stream" in tail or b'"stream": true' in seen.body
    return plain(api, stream=stream, by=BY_SPARE)


class RawProvider(Plays, Provider):
    """Over HTTP/1.1."""


class RawH2Provider(Plays, H2Provider):
    """Over HTTP/2, by way of the same bytes."""


@dataclass
class Case:
    """What came of one recipe."""

    number: int
    recipe: Recipe
    verdict: Verdict
    bare: Reading | Result
    side: Reading | Result
    tries: int = 1

    @property
    def by(self) -> str:
        return "raw client" if isinstance(self.bare, Reading) else "SDK"

    @property
    def difference(self) -> str:
        return f"{self.by}: {self.verdict.kind}"


@dataclass
class Report:
    """What came of a run."""

    cases: list[Case] = field(default_factory=list)
    seconds: float = 0
    complaints: set[str] = field(default_factory=set)

    @property
    def worse(self) -> list[Case]:
        return [c for c in self.cases if c.verdict.worse]

    @property
    def better(self) -> Counter[str]:
        return Counter(c.verdict.name for c in self.cases if c.verdict.name and not c.verdict.worse)

    def kinds(self) -> dict[str, list[Case]]:
        """The worse cases by what differs and by the oddity that it comes of, the plainest recipe first. Of several
        oddities it is the one that is known to do so alone, else the one that such cases have most often."""
        worse = sorted(self.worse, key=lambda c: (len(c.recipe.oddities), c.number))
        often = Counter((c.difference, oddity) for c in worse for oddity in c.recipe.suspects)
        found: dict[str, list[Case]] = defaultdict(list)
        alone: set[tuple[str, str]] = set()
        for case in worse:
            pairs = [(case.difference, oddity) for oddity in case.recipe.suspects or ["nothing odd"]]
            known = [pair for pair in pairs if pair in alone]
            pair = known[0] if known else max(pairs, key=lambda p: often[p])
            if len(pairs) == 1:
                alone.add(pair)
            found[": ".join(pair)].append(case)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))


class Pair:
    """Both proxies and the providers, for some recipes. State: which base URLs were given out."""

    def __init__(self, folder: Path, recipes: list[Recipe], script: Path) -> None:
        self._folder, self._script = folder, script
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._names = itertools.count()
        wanted = Counter((r.dialect, r.wire, r.spare) for r in recipes)
        self._free: dict[tuple[str, str, bool], Iterator[str]] = {}
        self._tables: list[tuple[str, str, str, bool]] = []
        for (dialect, wire, spare), count in wanted.items():
            # One for each reading by a raw client and an SDK, and some for what is read again.
            names = [f"s{next(self._names):05}" for _ in range(2 * count + TIMING_TRIES * (4 + count // 4))]
            self._free[dialect, wire, spare] = iter(names)
            self._tables += [(name, dialect, wire, spare) for name in names]

    def __enter__(self) -> Pair:
        folder, enter = self._folder, self._stack.enter_context
        folder.mkdir(parents=True, exist_ok=True)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.providers: dict[str, Any] = {
            WIRES[0]: enter(RawProvider("h1")),
            WIRES[1]: enter(RawProvider("tls", tls=server_context(ca, "127.0.0.1", "http/1.1"))),
            WIRES[2]: enter(RawH2Provider("h2", ca)),
        }
        options = ("--set", f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}")
        streaming = folder / "streaming.py"
        streaming.write_text(STREAMING)
        config = self._config() if self._script == ADDON else None
        lazy = ("--set", "connection_strategy=lazy")  # as Sidestep sets it, so that clients are offered HTTP/2 by both
        self.bare = Mitmdump(folder / "bare", None, *options, *lazy, script=streaming)
        self.side = Mitmdump(folder / "side", config, *options, *lazy, script=self._script)
        # Bare mitmproxy crashes at what some providers do: what Sidestep adds to that is looked at.
        self.bare.may_complain = self.side.may_complain = True
        try:
            enter(self.bare)
            enter(self.side)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def complaints(self) -> set[str]:
        """What Sidestep's proxy said that it never should, and the bare one did not."""
        return _complaints(self.side) - _complaints(self.bare)

    def _config(self) -> str:
        texts = [self._provider(name, dialect, WIRES[0], 'api_key = "pk-spare"\n') for dialect, name in SPARES.items()]
        for name, dialect, wire, spare in self._tables:
            texts.append(self._provider(name, dialect, wire))
            names = [name, SPARES[dialect]] if spare else [name]
            texts.append(
                f'[[routes]]\nintercept = ["{self._base(name, dialect, wire)}"]\nproviders = {json.dumps(names)}\n'
            )
        return "\n".join(texts)

    def _base(self, name: str, dialect: str, wire: str) -> str:
        return f"{self.providers[wire].origin}/{name}{'/v1' if dialect == 'openai' else ''}"

    def _provider(self, name: str, dialect: str, wire: str, more: str = "") -> str:
        base = self._base(name, dialect, wire)
        return f'[[providers]]\nname = "{name}"\ndialect = "{dialect}"\nbase_url = "{base}"\n{more}'

    def _name(self, recipe: Recipe, proxy: Mitmdump) -> str:
        with self._lock:
            if proxy is self.bare:
                return f"b{next(self._names):05}"
            return next(self._free[recipe.dialect, recipe.wire, recipe.spare])

    def _play(self, recipe: Recipe, proxy: Mitmdump) -> tuple[str, str, str]:
        name = self._name(recipe, proxy)
        provider = self.providers[recipe.wire]
        provider.play(name, recipe)
        return provider.origin, f"/{name}{'/v1' if recipe.dialect == 'openai' else ''}", name

    def read(self, recipe: Recipe, proxy: Mitmdump) -> tuple[Reading, list[bytes]]:
        """What a raw client reads of a recipe behind one of the proxies, and what its provider reads of the client's
        last request, each time that it came."""
        origin, base, name = self._play(recipe, proxy)
        turns = []
        for number, turn in enumerate([recipe.earlier, recipe] if recipe.earlier else [recipe]):
            headers = [
                ("Content-Type", turn.request_type),
                ("Authorization", "Bearer sk-app"),
                ("Accept-Encoding", "gzip, deflate, br, zstd, x-unknown"),
                ("X-Turn", str(number)),
            ]
            more = turn.asking.headers
            headers = [h for h in headers if h[0] not in {name for name, _ in more}] + more
            if turn.method in ("GET", "HEAD"):
                turns.append(Turn(headers, b"", _patience(turn), turn.method, turn.asking.version))
            else:
                asking = turn.asking
                turns.append(Turn(headers, turn.sent(), _patience(turn), "POST", asking.version, asking.chunked))
        http2 = recipe.wire != WIRES[0]
        reading = read(proxy, origin, base + recipe.path, turns, http2=http2)[-1]
        seen = [s for s in self.providers[recipe.wire].played[name].seen if s.header("x-turn") == str(len(turns) - 1)]
        return reading, [s.raw_head.replace(name.encode(), b"NAME") + s.body for s in seen]

    def call(self, recipe: Recipe, proxy: Mitmdump) -> Result:
        """What the official SDK makes of a recipe behind one of the proxies."""
        origin, base, _ = self._play(recipe, proxy)
        bases = {recipe.dialect: origin + base}
        with Client(proxy, bases, timeout=_patience(recipe), http2=recipe.wire != WIRES[0]) as app:
            try:
                return app.call(recipe.api, stream=recipe.stream)
            except Exception as e:  # whatever an SDK fails with is what its app gets
                return Result(error=e)


_ERROR_LINE = re.compile(r"^(\w+Error|\w+Exception|AssertionError): |sidestep: internal error")


def _complaints(proxy: Mitmdump) -> set[str]:
    """The last lines of tracebacks, and errors that Sidestep tells of itself."""
    return {line for line in proxy.lines if _ERROR_LINE.search(line)}


def _patience(recipe: Recipe) -> float:
    """How many seconds a client waits for the end of an answer."""
    steps = recipe.steps()
    waits = sum(s for s in steps if isinstance(s, float))
    waits += sum(len(s) for s in steps if isinstance(s, bytes)) / BYTES_A_SECOND
    # What bare mitmproxy loses, it loses by waiting for ever.
    in_vain = Act.STALL in steps or "interim" in recipe.oddities or recipe.framing == "trailers"
    return waits + (STALL_SECONDS if in_vain else PATIENCE_SECONDS)


def compare(pair: Pair, number: int, recipe: Recipe, *, sdk: bool) -> Iterator[Case]:
    """The verdicts on one recipe. What only came late is read again, for the machine may have been busy; so is what
    else was worse, for a reset may overtake what was sent before it."""
    for tries in range(1, TIMING_TRIES + 1):
        (bare, sent), (side, passed) = pair.read(recipe, pair.bare), pair.read(recipe, pair.side)
        verdict = judge(recipe, bare, side)
        if not verdict.worse:
            verdict = judge_request(verdict, sent, passed)
        if not verdict.worse or (tries > 1 and not verdict.late):
            break
    yield Case(number, recipe, verdict, bare, side, tries)
    # google-genai waits without end: where a raw client waits in vain no SDK is asked.
    plain_request = recipe.api in APIS and not recipe.spare and "request" not in recipe.oddities
    plain_request = plain_request and recipe.encoding != "gzip members"  # the SDKs read the first alone
    if sdk and plain_request and recipe.earlier is None and "stalled" not in (bare.end, side.end):
        answers = pair.call(recipe, pair.bare), pair.call(recipe, pair.side)
        yield Case(number, recipe, judge_sdk(recipe, *answers), *answers)


def run(
    folder: Path,
    recipes: Mapping[int, Recipe],
    *,
    jobs: int = 6,
    script: Path = ADDON,
    sdk_every: int = SDK_EVERY,
    tell: Callable[[Case], None] = lambda case: None,
) -> Report:
    """The verdicts on all these recipes. `script`: in place of the addon. `tell` is called with each case as it
    ends."""
    report = Report()
    began = time.monotonic()
    lock = threading.Lock()
    for batch in itertools.batched(recipes, BATCH):
        with Pair(folder / f"from-{batch[0]}", [recipes[n] for n in batch], script) as pair:

            def one(number: int, pair: Pair = pair) -> None:
                for case in compare(pair, number, recipes[number], sdk=number % sdk_every == 0):
                    with lock:
                        report.cases.append(case)
                        tell(case)

            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(one, batch))
            report.complaints |= pair.complaints()
    report.seconds = time.monotonic() - began
    return report
