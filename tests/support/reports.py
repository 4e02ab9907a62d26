"""Answers as people have reported them, each from a provider of its own behind one proxy.

A `Row` is one call: what the provider that the app addresses answers, by a recipe, and what the others behind it do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from support.calls import Client, Result
from support.differential import RawH2Provider, RawProvider
from support.h2provider import server_context
from support.provider import Behaviour, grammar
from support.proxy import Mitmdump
from support.rawreading import Reading, Turn, read
from support.recipes import WHOLE_TYPE, WIRES, Part, Recipe, plain
from support.settings import table

SECONDS = 15.0
"""How long an app waits for the end of an answer."""


@dataclass(frozen=True)
class Ask:
    """One request of a row's, with what is other than usual."""

    body: bytes | None = None
    path: str | None = None
    key: str = "sk-app"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Row:
    """One report. `name` says what the provider does; `extra`: more TOML of the app's own provider."""

    name: str
    recipe: Recipe
    others: tuple[Recipe, ...] = ()
    extra: str = ""
    others_extra: str = ""
    asks: tuple[Ask, ...] = (Ask(),)
    kind: str = field(default="", init=False)
    number: int = field(default=0, init=False)

    def __str__(self) -> str:
        return f"{self.name}-{self.recipe.api}-{'streamed' if self.recipe.stream else 'whole'}"

    @property
    def api(self) -> str:
        return self.recipe.api

    @property
    def sent(self) -> bytes:
        """The body of the answer as its provider sends it."""
        return b"".join(p.data for p in self.recipe.encoded())

    def provider(self, at: int) -> str:
        """The name of one of its providers, 0 for the app's own."""
        return f"{'abcd'[at]}{self.number}"


class Reports:
    """State: the proxy, the providers by the wire that they speak, the rows by kind, and what came of the kinds that
    were asked for: the readings of each row, and `/health` after them."""

    def __init__(self, m: Mitmdump, providers: dict[str, Any], kinds: dict[str, list[Row]]) -> None:
        self.m, self.providers, self.kinds = m, providers, kinds
        self._readings: dict[int, list[Reading]] = {}
        self._health: dict[str, dict[str, Any]] = {}

    def readings(self, row: Row) -> list[Reading]:
        """What a raw client reads, ask by ask. All rows of the kind are asked at once, for `/health` is long."""
        if row.kind not in self._health:
            for each in self.kinds[row.kind]:
                self._readings[each.number] = [self._ask(each, ask) for ask in each.asks]
            self._health[row.kind] = self.m.settled()
        return self._readings[row.number]

    def status(self, row: Row, at: int = 0) -> dict[str, Any]:
        """What `/health` said of one of its providers once its kind had been asked."""
        self.readings(row)
        found: dict[str, Any] = self._health[row.kind][row.provider(at)]
        return found

    def base(self, row: Row, at: int) -> tuple[str, str]:
        """Origin and path of a provider's base URL."""
        provider = self.providers[row.recipe.wire]
        return provider.origin, f"/{row.provider(at)}{'/v1' if row.recipe.dialect == 'openai' else ''}"

    def _ask(self, row: Row, ask: Ask) -> Reading:
        origin, base = self.base(row, 0)
        fields = [("Content-Type", WHOLE_TYPE), ("Accept-Encoding", "gzip, deflate, br, zstd")]
        fields += [("Authorization", f"Bearer {ask.key}"), *ask.headers]
        turn = Turn(fields, row.recipe.request() if ask.body is None else ask.body, SECONDS)
        tail = ask.path or row.recipe.path
        return read(self.m, origin, base + tail, [turn], http2=row.recipe.wire != WIRES[0])[0]

    def call(self, row: Row) -> Result:
        """What the official SDK reads."""
        origin, base = self.base(row, 0)
        with Client(self.m, {row.recipe.dialect: origin + base}, http2=row.recipe.wire != WIRES[0]) as app:
            return app.call(row.api, stream=row.recipe.stream)

    def asked(self, row: Row, at: int = 0) -> int:
        """How often one of its providers was asked."""
        played = self.providers[row.recipe.wire].played.get(row.provider(at))
        return sum(played.attempts.values()) if played is not None else 0

    def seen(self, row: Row, at: int = 0) -> list[Any]:
        """The requests that one of its providers got."""
        start = f"/{row.provider(at)}/"
        return [r for r in self.providers[row.recipe.wire].requests if r.path.startswith(start)]


@contextlib.contextmanager
def behind_one_proxy(folder: Path, kinds: dict[str, list[Row]], **tables: dict[str, Any]) -> Iterator[Reports]:
    """All these rows, each with a route of its own."""
    texts = [table(name, values) for name, values in tables.items()]
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        providers: dict[str, Any] = {
            WIRES[0]: stack.enter_context(RawProvider("h1")),
            WIRES[1]: stack.enter_context(RawProvider("tls", tls=server_context(ca, "127.0.0.1", "http/1.1"))),
            WIRES[2]: stack.enter_context(RawH2Provider("h2", ca)),
        }
        pairs = [(kind, row) for kind, rows in kinds.items() for row in rows]
        for number, (kind, row) in enumerate(pairs):
            row.number, row.kind = number, kind
            provider, dialect = providers[row.recipe.wire], row.recipe.dialect
            names = [row.provider(at) for at in range(1 + len(row.others))]
            for at, (name, recipe) in enumerate(zip(names, (row.recipe, *row.others), strict=True)):
                provider.play(name, recipe)
                base = f"{provider.origin}/{name}{'/v1' if dialect == 'openai' else ''}"
                more = row.extra if not at else f'api_key = "pk-{name}-CANARY"\n{row.others_extra}'
                texts.append(f'[[providers]]\nname = "{name}"\ndialect = "{dialect}"\nbase_url = "{base}"\n{more}')
                if not at:
                    own = base
            texts.append(f'[[routes]]\nintercept = ["{own}"]\nproviders = {json.dumps(names)}\n')
        trust = f"ssl_verify_upstream_trusted_ca={folder / 'ca.pem'}"
        yield Reports(
            stack.enter_context(Mitmdump(folder / "proxy", "\n".join(texts), "--set", trust)), providers, kinds
        )


# --- recipes


def good(recipe: Recipe, marked: str = "B") -> Recipe:
    """A stand-in's good answer to the same call, with another first word."""
    made = plain(recipe.api, stream=recipe.stream)
    made.wire = recipe.wire
    made.parts = [
        Part(p.data.replace(b'"A', b'"' + marked.encode(), 1), p.content, comes_with=p.comes_with) for p in made.parts
    ]
    return made


def changed(api: str, stream: bool, change: Callable[[bytes], bytes]) -> Recipe:
    """A good answer, each piece of whose body is changed."""
    recipe = plain(api, stream=stream)
    recipe.parts = [Part(change(p.data), p.content, comes_with=p.comes_with) for p in recipe.parts]
    return recipe


def holding(api: str, stream: bool, *pieces: Any, status: int = 200) -> Recipe:
    """An answer of these pieces: bytes as they are, all else as JSON, in a stream as an event."""
    recipe = plain(api, stream=stream)
    recipe.parts = [Part(p if isinstance(p, bytes) else event(api, p) if stream else encoded(p)) for p in pieces]
    recipe.status = status
    if status >= 400:
        recipe.content_type, recipe.framing = WHOLE_TYPE, "length"
        recipe.parts = [Part(p if isinstance(p, bytes) else encoded(p)) for p in pieces]
    return recipe


def encoded(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def event(api: str, data: Any) -> bytes:
    """An event in the form of an API's streams."""
    name = data.get("type") if api in ("responses", "messages") and isinstance(data, dict) else None
    return (f"event: {name}\n" if name else "").encode() + b"data: " + encoded(data) + b"\n\n"


def before(api: str) -> list[bytes]:
    """What comes of a good stream before its first word, and a sign of life."""
    made = plain(api, stream=True)
    sign = {"gemini": b"\r\n", "messages": b'event: ping\ndata: {"type": "ping"}\n\n'}.get(api, b": PROCESSING\n\n")
    return [*(p.data for p in made.parts if p.comes_with == "before"), sign]


def first_word(api: str) -> list[bytes]:
    """What comes of a good stream up to its first word."""
    parts = plain(api, stream=True).parts
    at = next(i for i, p in enumerate(parts) if p.comes_with == "token")
    return [p.data for p in parts[: at + 1]]


def told(api: str, stream: bool, error: dict[str, Any], *, late: bool = False, after: bool = False) -> Recipe:
    """An error told inside a 200, in the API's own form. `late`: after what comes before content; `after`: after the
    first word."""
    match api:
        case "messages":
            said: dict[str, Any] = {"type": "error", "error": error}
        case "responses":
            whole = grammar("responses", "A", b"{}", Behaviour(tokens=0)).whole()
            said = {**whole, "status": "failed", "output": [], "error": error, "usage": None}
            if stream:
                said = {"type": "response.failed", "sequence_number": 2, "response": said}
        case _:
            said = {"error": error}
    return holding(api, stream, *(first_word(api) if after else before(api) if late else []), said)
