"""What can be odd about a provider's answer, and answers made of it from a seed.

Each dimension changes a plain answer in a way in which every client can still read it; a fault, of which a recipe has
one at most, makes it no good answer.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace

from support.asking import request
from support.calls import APIS
from support.contents import CONTENTS
from support.faults import FAULTS, STREAMS_ONLY, error_of
from support.operations import OPERATIONS
from support.recipes import (
    ENCODE,
    LONG_PACES,
    STREAM_TYPE,
    WHOLE_TYPE,
    WIRES,
    Act,
    Part,
    Recipe,
    plain,
)
from support.reports import encoded, event

LONG_SILENCE = 6.5
"""Seconds: longer than any sign of life may be held back."""

FRAMINGS = (
    *("length", "chunked", "close", "trailers", "length, then close", "chunked, then close", "extended chunks"),
    "old close",
)

# --- dimensions: each takes a good answer and the random source, and returns the name of what it has done

Odd = Callable[[Recipe, random.Random], str]


def _framing(r: Recipe, rng: random.Random) -> str:
    # mitmproxy's own HTTP/1 crashes at trailers: each such answer takes all the patience that there is.
    r.framing = rng.choices(FRAMINGS, [1 if f == "trailers" else 12 for f in FRAMINGS])[0]
    if r.framing in ("chunked", "extended chunks", "trailers") and rng.random() < 0.5:
        size = rng.choice([1, 7, 113])
        r.pieces = lambda data: _pieces(data, size)
        return f"{r.framing} in pieces of {size}"
    return r.framing


def _pieces(data: bytes, size: int, at_most: int = 4096) -> list[bytes]:
    cut = min(len(data), at_most)
    return [data[at : min(at + size, cut)] for at in range(0, cut, size)] + [data[cut:]]


def _encoding(r: Recipe, rng: random.Random) -> str:
    r.encoding = rng.choice([e for e in ENCODE if e])
    return r.encoding


_TYPES_ODD = (None, "text/plain", "text/plain; charset=utf-8", "application/octet-stream", "text/html; charset=utf-8")


def _content_type(r: Recipe, rng: random.Random) -> str:
    right, other = (STREAM_TYPE, WHOLE_TYPE) if r.stream else (WHOLE_TYPE, STREAM_TYPE)
    spelled = [right.title(), right.upper(), f"{right};charset=UTF-8", f'{right}; charset="utf-8"; x=y', f"{right};"]
    r.content_type = rng.choice([*spelled, *_TYPES_ODD, other, "application/x-ndjson", "application/stream+json", ""])
    return str(r.content_type)


def _charset(r: Recipe, rng: random.Random) -> str:
    if r.form == "bytes":
        return "none"
    name = rng.choice(["bom", "utf-16", "latin-1", "not ascii"])
    match name:
        case "bom":
            r.parts[0] = replace(r.parts[0], data=b"\xef\xbb\xbf" + r.parts[0].data)
        case "utf-16":
            _each(r, lambda data: data.decode().encode("utf-16-le"))
            r.parts[0] = replace(r.parts[0], data=b"\xff\xfe" + r.parts[0].data)
            r.faults.add("unreadable to SDKs")
        case "latin-1":
            _each(r, lambda data: data.replace(b"w1", b"w\xe9"))
            r.content_type = f"{STREAM_TYPE if r.stream else WHOLE_TYPE}; charset=iso-8859-1"
        case _:
            _each(r, lambda data: data.replace(b"w1", "w\u00e9\u4e2d\U0001f600".encode()))
    return name


def _each(r: Recipe, change: Callable[[bytes], bytes]) -> None:
    r.parts = [replace(p, data=change(p.data)) for p in r.parts]


def _insert(r: Recipe, *data: bytes, at: int) -> None:
    r.parts[at:at] = [Part(d, comes_with="other") for d in data]


def _in_text(old: bytes, new: bytes) -> Callable[[Recipe, random.Random], None]:
    return lambda r, rng: _each(r, lambda data: data.replace(old, new))


def _first_field(text: bytes) -> Callable[[Recipe, random.Random], None]:
    """Add a field to the first JSON object of every event, or of the whole answer."""
    return lambda r, rng: _each(r, lambda data: re.sub(rb"\{", lambda m: b"{" + text + b", ", data, count=1))


def _sse(data: bytes, stops: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n").replace(b"\n", stops)


def _long(r: Recipe, rng: random.Random) -> None:
    size = rng.choice([70_000, 300_000, 1_100_000, 3_000_000])
    if rng.random() < 0.03:
        size = 20_000_000
    _each_token(r, lambda data: data.replace(b" w2", b" w2" + b"x" * size))


def _each_token(r: Recipe, change: Callable[[bytes], bytes]) -> None:
    r.parts = [replace(p, data=change(p.data)) if p.comes_with in ("token", "whole") else p for p in r.parts]


def _hollow_frames(r: Recipe, rng: random.Random) -> None:
    hollow = {
        "completions": b'data: {"id":"c","object":"text_completion","created":1,"model":"m","choices":[]}\n\n',
        "images": b'event: x.y\ndata: {"type":"x.y"}\n\n',
        "chat": b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n',
        "responses": b'event: response.in_progress\ndata: {"type":"response.in_progress","sequence_number":0,'
        b'"response":{"id":"r","object":"response","created_at":1,"model":"m","status":"in_progress","output":[]}}\n\n',
        "messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":""}}\n\n',
        "gemini": b'data: {"candidates":[{"index":0}],"modelVersion":"m"}\r\n\r\n',
    }[r.api]
    token = next(i for i, p in enumerate(r.parts) if p.comes_with == "token")
    _insert(r, hollow, at=token if rng.random() < 0.5 else token + 2)


def _unknown_event(r: Recipe, rng: random.Random) -> None:
    event = b'event: x.new\ndata: {"type":"x.new","object":"x.new","choices":[],"candidates":[]}\n\n'
    _insert(r, event, at=rng.randrange(len(r.parts)))


def _comments(r: Recipe, rng: random.Random) -> None:
    for at in (len(r.parts), len(r.parts) // 2, 0):
        _insert(r, rng.choice([b": a comment\n\n", b":\n\n", b": x\n", b"\n\n\n"]), at=at)


def _broken_lines(r: Recipe, rng: random.Random) -> None:
    """One event's JSON over several `data` lines."""
    _each(r, lambda data: data.replace(b', "', b',\ndata: "', 1))


_BOTH_FORMS: dict[str, Callable[[Recipe, random.Random], None]] = {
    "NaN": _first_field(b'"x_score": NaN'),
    "Infinity": _first_field(b'"x_score": -Infinity'),
    "unknown field": _first_field(b'"x_new": {"deep": [1, null, true]}'),
    "duplicate key": _first_field(b'"x": 1, "x": 2'),
    "big number": _first_field(b'"x": 123456789012345678901234567890, "y": 1e999'),
    "deep": _first_field(b'"x": ' + b"[" * 300 + b"]" * 300),
    "lone surrogate": _in_text(b" w1", b" w1\\ud83d"),
    "U+2028": _in_text(b" w1", " w1\u2028\u2029\u0085".encode()),
    "escaped NUL": _in_text(b" w1", b" w1\\u0000\\u001f"),
    "slashes": _in_text(b" w1", b" w1\\/\\u00e9"),
    "long": _long,
}
_EVENT_FORMS: dict[str, Callable[[Recipe, random.Random], None]] = {
    "CR": lambda r, rng: _each(r, lambda d: _sse(d, b"\r")),
    "CRLF": lambda r, rng: _each(r, lambda d: _sse(d, b"\r\n")),
    "no blank": lambda r, rng: _each(r, lambda d: re.sub(rb"(?m)^(data|event): ", rb"\1:", d)),
    "ids and retry": lambda r, rng: _each(r, lambda d: b"id: 7\nretry: 5\nx-field: 1\nlonely\n" + d),
    "no last blank line": lambda r, rng: r.parts.append(_stripped(r.parts.pop())),
    "comments": _comments,
    "unknown event": _unknown_event,
    "several data lines": _broken_lines,
    "hollow frames": _hollow_frames,
    "all at once": lambda r, rng: _join(r),
}
_WHOLE_FORMS: dict[str, Callable[[Recipe, random.Random], None]] = {
    "blanks around": lambda r, rng: _each(r, lambda d: b"\n \t\r\n" + d + b"\n\n"),
    "pretty": lambda r, rng: _each(r, lambda d: json.dumps(json.loads(d), indent=4).encode()),
}


def _stripped(part: Part) -> Part:
    return replace(part, data=part.data.rstrip(b"\r\n") + b"\n")


def _join(r: Recipe) -> None:
    r.parts = [Part(b"".join(p.data for p in r.parts), content=True, comes_with="token")]


def _form(r: Recipe, rng: random.Random) -> str:
    forms = {**_BOTH_FORMS, **{"events": _EVENT_FORMS, "json": _WHOLE_FORMS, "array": {}}.get(r.form, {})}
    if r.form in ("text", "bytes"):
        forms = {"long": _long}
    name = rng.choice(list(forms))
    forms[name](r, rng)
    return name


def _pace(r: Recipe, rng: random.Random) -> str:
    names = ["slow headers", "signs of life", "slow content", "bursts", "byte by byte"]
    name = rng.choice(names) if rng.random() < 0.94 else rng.choice(LONG_PACES)
    if any(len(p.data) > 1_000_000 for p in r.parts):
        name = "slow line"  # one piece of what is smaller is held back until its event is there
    marked = not r.stream and "charset" in r.oddities and not r.parts[0].data.startswith((b"{", b"["))
    if (r.form in ("text", "bytes") or marked) and name in ("signs of life", "long silence with pings"):
        name = "bursts"  # nothing can be put before them that means nothing: not even blanks before a byte order mark
    token = next((i for i, p in enumerate(r.parts) if p.comes_with in ("token", "whole")), 0)
    sign = r.grammar.ping() if r.stream else b"\n"
    match name:
        case "slow headers":
            r.before_head.append(0.7)
        case "signs of life":
            r.parts[token:token] = [Part(sign, wait=0.15, comes_with="other")] * 5
        case "slow content":
            r.parts[token] = replace(r.parts[token], wait=0.8)
        case "bursts":
            r.parts = [replace(p, wait=0.2) if i % 3 == 2 else p for i, p in enumerate(r.parts)]
        case "byte by byte":
            r.pieces = lambda data: _pieces(data, 1, 400)
        case "slow line":
            at = max(range(len(r.parts)), key=lambda i: len(r.parts[i].data))
            long = r.parts[at]
            size = len(long.data) // 5 + 1
            cut = [long.data[n : n + size] for n in range(0, len(long.data), size)]
            r.parts[at : at + 1] = [replace(long, data=d, wait=0.5, content=i == 4) for i, d in enumerate(cut)]
        case "long silence with pings":
            r.parts[token:token] = [Part(sign, wait=LONG_SILENCE / 4, comes_with="other")] * 4
        case _:
            r.parts[token] = replace(r.parts[token], wait=LONG_SILENCE)
    return name


def _wire(r: Recipe, rng: random.Random) -> str:
    r.wire = rng.choice(WIRES[1:])
    return r.wire


def _interim(r: Recipe, rng: random.Random) -> str:
    heads = [b"103 Early Hints\r\nlink: </a>", b"100 Continue", b"102 Processing"]
    numbers = rng.sample(heads, rng.choice([1, 1, 2]))
    for number in numbers:
        r.before_head.append(b"HTTP/1.1 " + number + b"\r\n\r\n")
        if rng.random() < 0.2:
            r.before_head.append(0.3)
    r.faults.add("interim")
    return " ".join(n[:3].decode() for n in numbers)


def _earlier(r: Recipe, rng: random.Random) -> str:
    """A request that goes before on the same connection."""
    name = rng.choice(["good", "400", "429", "500", "cut", "idle connection breaks"])
    before = plain(r.api, stream=r.stream)
    if name.isdigit():
        before.status, before.content_type = int(name), WHOLE_TYPE
        before.parts, before.framing = [Part(error_of(r, int(name)))], "length"
    elif name == "cut":
        before.promised = sum(len(p.data) for p in before.parts) + 1
        before.end = Act.CLOSE
    elif name == "idle connection breaks":
        r.breaks_idle = True
        r.faults.add("idle connection breaks")
    r.earlier = before
    return name


_HEADS = {
    "cookies": [("Set-Cookie", "a=1; Path=/"), ("set-cookie", "b=2")],
    "empty value": [("X-Empty", ""), ("x-blank", "  ")],
    "long value": [("x-long", "y" * 30_000)],
    "limits left": [("x-ratelimit-remaining-requests", "9"), ("anthropic-ratelimit-tokens-remaining", "9")],
    "a limit used up": [("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1s")],
    "retry later": [("Retry-After", "30"), ("x-should-retry", "true")],
    "ours": [("x-sidestep-provider", "theirs"), ("x-sidestep-attempts", "theirs:999")],
    "Latin": [("x-latin", "caf\xe9")],
    "alternatives": [("Alt-Svc", 'h3=":443"; ma=86400'), ("Server", "cloudflare"), ("CF-RAY", "x"), ("Date", "soon")],
    "cached": [("ETag", '"x"'), ("Cache-Control", "max-age=60"), ("Age", "5"), ("Vary", "*")],
    "secure": [("strict-transport-security", "max-age=1"), ("Content-Disposition", "inline"), ("Link", "</x>; rel=y")],
}


def _head(r: Recipe, rng: random.Random) -> str:
    name = rng.choice([*_HEADS, "no reason", "odd reason"])
    if name == "no reason":
        r.reason = ""
    elif name == "odd reason":
        r.reason = "Tr\xe8s bien, merci"
    else:
        r.headers += _HEADS[name]
    return name


def _status_of_success(r: Recipe, rng: random.Random) -> str:
    r.status = rng.choice([201, 202, 203, 206, 226, 250, 299])
    return str(r.status)


def _content(r: Recipe, rng: random.Random) -> str:
    """A good answer that says something else."""
    contents = CONTENTS.get((r.api, r.stream))
    if contents is None:
        return "plain"
    name = rng.choice(list(contents))
    pieces = [p if isinstance(p, bytes) else event(r.api, p) if r.stream else encoded(p) for p in contents[name]]
    last = len(pieces) - 1
    r.parts = [Part(p, at == last, 0.01, comes_with="token" if r.stream else "whole") for at, p in enumerate(pieces)]
    r.text = ""
    return name


DIMENSIONS: dict[str, Odd] = {
    "content": _content,
    "form": _form,
    "charset": _charset,
    "pace": _pace,
    "encoding": _encoding,
    "framing": _framing,
    "type": _content_type,
    "head": _head,
    "success": _status_of_success,
    "wire": _wire,
    "request": request,
    "interim": _interim,
    "earlier": _earlier,
}
"""What does not keep an answer from being read."""

_WEIGHTS = [4 if name == "form" else 1 if name in ("interim", "earlier", "success") else 2 for name in DIMENSIONS]
_SPARE_NONE = ("interim", "earlier")
"""With these a stand-in may answer as well: that is none of the good answers that only their provider gives."""
_OF_GOOD_ONES = {"form", "charset", "content", "success", "earlier"}
"""What comes with no fault: those look for events as they are made."""
KINDS = (*FAULTS, *DIMENSIONS)


def with_oddity(recipe: Recipe, dimension: str, value: str) -> Recipe:
    """A recipe like this one, with one of the oddities."""
    found = (random.Random(n) for n in itertools.count())
    while True:
        made = plain(recipe.api, stream=recipe.stream)
        made.oddities[dimension] = {**DIMENSIONS, **FAULTS}[dimension](made, next(found))
        if made.oddities[dimension] == value:
            return made


def make(seed: int, number: int, *, only: str | None = None, slow: bool = True) -> Recipe:
    """The recipe of a case. `only`: this dimension or fault is in it, and with `dimension=value` with this value.
    `slow`: paces may be among them that take many seconds."""
    rng = random.Random(f"{seed} {number}")
    kind, _, value = (only or "").partition("=")
    while True:
        recipe = _make(rng, kind)
        if (slow or not recipe.long) and (not value or value in recipe.oddities[kind]):
            return recipe


def _make(rng: random.Random, kind: str) -> Recipe:
    api = rng.choice(APIS if rng.random() < 0.7 else list(OPERATIONS))
    r = plain(api, stream=rng.random() < 0.6 or kind in STREAMS_ONLY)
    while kind in STREAMS_ONLY and r.form != "events":
        r = plain(rng.choice(APIS), stream=True)
    faults = [f for f in FAULTS if r.form == "events" or f not in STREAMS_ONLY]
    wanted = set(rng.choices(list(DIMENSIONS), _WEIGHTS, k=rng.choice([0, 1, 1, 1, 2, 2, 3])))
    fault = rng.choice(faults) if rng.random() < 0.4 or not wanted else None
    if kind in FAULTS:
        fault = kind
    elif kind:
        wanted.add(kind)
    if kind in _OF_GOOD_ONES:
        fault = None
    if fault is not None:
        wanted -= _OF_GOOD_ONES
    if "content" in wanted:
        wanted -= {"content"} if kind in ("form", "charset") else {"form", "charset"}
    for name, apply in DIMENSIONS.items():
        if name in wanted and name != "earlier":
            r.oddities[name] = apply(r, rng)
    if fault is not None:
        r.oddities[fault] = FAULTS[fault](r, rng)
    if "earlier" in wanted:
        r.oddities["earlier"] = _earlier(r, rng)
    r.spare = not wanted & set(_SPARE_NONE) and rng.random() < 0.4
    if r.api not in APIS:
        r.oddities = {"operation": r.api, **r.oddities}
    return r
