"""What can be odd about a provider's answer, and answers made of it from a seed.

Each dimension changes a plain answer in a way in which every client can still read it; each fault makes it no good
answer. A recipe has one fault at most.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from dataclasses import replace

from support.calls import APIS
from support.provider import Behaviour, error_body
from support.recipes import (
    ENCODE,
    LONG_PACES,
    STREAM_TYPE,
    WHOLE_TYPE,
    WIRES,
    Act,
    Part,
    Recipe,
    Step,
    grammar_of,
    plain,
)

LONG_SILENCE = 6.5
"""Seconds: longer than any sign of life may be held back."""

# --- dimensions: each takes a good answer and the random source, and returns the name of what it has done

Odd = Callable[[Recipe, random.Random], str]


def _framing(r: Recipe, rng: random.Random) -> str:
    # mitmproxy's own HTTP/1 crashes at trailers: each such answer takes all the patience that there is.
    r.framing = rng.choices(["length", "chunked", "close", "trailers"], (12, 12, 12, 1))[0]
    if r.framing in ("chunked", "trailers") and rng.random() < 0.5:
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
    forms = {**_BOTH_FORMS, **(_EVENT_FORMS if r.stream else _WHOLE_FORMS)}
    name = rng.choice(list(forms))
    forms[name](r, rng)
    return name


def _pace(r: Recipe, rng: random.Random) -> str:
    names = ["slow headers", "signs of life", "slow content", "bursts", "byte by byte"]
    name = rng.choice(names) if rng.random() < 0.94 else rng.choice(LONG_PACES)
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
        case "long silence with pings":
            r.parts[token:token] = [Part(sign, wait=LONG_SILENCE / 4, comes_with="other")] * 4
        case _:
            r.parts[token] = replace(r.parts[token], wait=LONG_SILENCE)
    return name


def _wire(r: Recipe, rng: random.Random) -> str:
    r.wire = rng.choice(WIRES[1:])
    return r.wire


# --- what is no good answer


def _error_of(r: Recipe, status: int, code: str | None = None, message: str = "it went wrong") -> bytes:
    return error_body(r.dialect, Behaviour(status=status, code=code, message=message))


_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 422, 424, 425, 429, 500, 501, 502, 503, 504, 505, 520, 529)


def _status(r: Recipe, rng: random.Random) -> str:
    r.status = rng.choice([*_STATUSES, 429, 503, 500, 301, 302, 307, 304, 201, 204])
    r.reason = "Odd reason" if rng.random() < 0.3 else "X"
    r.faults.add("status")
    r.text = ""
    if r.status < 300:
        r.faults.add("unusual success")
        return str(r.status)
    if r.status < 400:
        r.headers.append(("Location", "http://127.0.0.1:9/elsewhere"))
    body = rng.choice(["dialect", "dialect", "html", "text", "empty", "broken JSON"])
    data, r.content_type = {
        "dialect": (_error_of(r, r.status), WHOLE_TYPE),
        "html": (b"<html><body>gateway</body></html>", "text/html"),
        "text": (b"upstream connect error", "text/plain"),
        "empty": (b"", None),
        "broken JSON": (b'{"error": {"message": "x', WHOLE_TYPE),
    }[body]
    r.parts = [Part(data, comes_with="error")] if data else []
    if r.status in (429, 503) and rng.random() < 0.5:
        name, value = rng.choice(
            [("Retry-After", "1"), ("retry-after-ms", "400"), ("Retry-After", "30"), ("Retry-After", "soon")]
        )
        r.headers.append((name, value))
        return f"{r.status} {body}, {name}: {value}"
    return f"{r.status} {body}"


def _told_inside(r: Recipe, rng: random.Random) -> str:
    """An error told inside a 200, before content."""
    code, message = rng.choice(
        [
            ("server_error", "it went wrong"),
            ("context_length_exceeded", "This model's maximum context length is 8192 tokens."),
            ("invalid_request_error", "The prompt was blocked by a policy."),
            ("rate_limit_exceeded", "Rate limit reached, try again in 20s."),
        ]
    )
    r.text = ""
    r.faults.add("error told")
    if not r.stream:
        r.parts = [Part(_error_of(r, 400, code, message), comes_with="error")]
        return f"error object, {code}"
    at = next(i for i, p in enumerate(r.parts) if p.comes_with == "token")
    keep = r.parts[: rng.choice([0, at])]
    if r.api == "responses" and rng.random() < 0.6:
        failed = {"type": "response.failed", "sequence_number": 3}
        response = {**r.grammar.whole(), "status": "failed", "output": [], "error": {"code": code, "message": message}}
        event = f"event: response.failed\ndata: {json.dumps({**failed, 'response': response})}\n\n".encode()
    else:
        event = r.grammar.error(Behaviour(code=code, message=message))
    r.parts = [*keep, Part(event, comes_with="error")]
    return f"error event before content, {code}"


def _error_after(r: Recipe, rng: random.Random) -> str:
    r.parts = [*_until_token(r, 3), Part(r.grammar.error(Behaviour()), comes_with="error")]
    r.faults |= {"error event", "unfinished"}
    return "error event after content"


def _until_token(r: Recipe, count: int) -> list[Part]:
    """The parts up to and with so many tokens."""
    tokens = [i for i, p in enumerate(r.parts) if p.comes_with == "token"]
    return r.parts[: tokens[min(count, len(tokens)) - 1] + 1] if count else r.parts[: tokens[0]]


def _broken_off(r: Recipe, rng: random.Random) -> str:
    """The connection is cut, stalls or ends at some place."""
    r.end = rng.choice([Act.CLOSE, Act.RESET, Act.STALL, None])
    whole = sum(len(p.data) for p in r.encoded())
    where = rng.choice(["before the head", "in the head", "after the head", "before content", "after content"])
    where = rng.choice([where, "amid an event", "before the end", "after the end"]) if r.stream else where
    r.faults.add("stalled" if r.end is Act.STALL else "unfinished")
    if where in ("before the head", "in the head"):
        r.end = r.end or Act.CLOSE
        r.faults.add("no head")
        head: list[Step] = [b"HTTP/1.1 200 OK\r\nContent-Ty"] if where == "in the head" else []
        r.instead = [*head, 0.05, r.end]
    elif where == "after the head":
        r.parts = []
    elif not r.stream:
        data = r.parts[0].data
        r.parts = [replace(r.parts[0], data=data[: len(data) // 2])]
    elif where == "before content":
        r.parts = _until_token(r, 0)
    elif where == "after content":
        r.parts = _until_token(r, 3)
    elif where == "amid an event":
        kept = _until_token(r, 4)
        r.parts = [*kept[:-1], replace(kept[-1], data=kept[-1].data[: len(kept[-1].data) // 2])]
    elif where == "before the end":
        r.parts = [p for p in r.parts if p.comes_with != "terminal"]
    else:
        r.faults.discard("unfinished")
        r.faults.add("whole all the same")
    if r.end is not None and r.framing == "length" and where != "after the end":
        r.promised = whole
    elif r.end is None and r.framing == "length":
        r.framing = "chunked"
    how = "ended" if r.end is None else {Act.CLOSE: "closed", Act.RESET: "reset", Act.STALL: "stalled"}[r.end]
    return f"{how} {where}"


def _malformed(r: Recipe, rng: random.Random) -> str:
    at = rng.choice([0, 1, 3])
    kept = len(_until_token(r, at))
    r.parts[kept:kept] = [Part(r.grammar.malformed(), broken=True, comes_with="other")]
    r.faults.add("malformed")
    return f"malformed event after {at} tokens"


def _no_answer(r: Recipe, rng: random.Random) -> str:
    name = rng.choice(["html", "empty", "hollow", "the other form", "text"])
    r.text, r.faults = "", r.faults | {"no answer"}
    match name:
        case "html":
            r.parts, r.content_type = [Part(b"<html>sign in</html>")], "text/html"
        case "empty":
            r.parts = []
        case "text":
            r.parts, r.content_type = [Part(b"it works!\n")], "text/plain"
        case "the other form":
            good = plain(r.api, stream=not r.stream)
            r.parts, r.content_type = good.parts, good.content_type
        case _:
            hollow = grammar_of(r.api, r.request(), tokens=0)
            r.parts = (
                [Part(d) for d in [*hollow.before(), *hollow.finish(), *hollow.terminal()]]
                if r.stream
                else [Part(json.dumps(hollow.whole()).encode())]
            )
    return name


def _interim(r: Recipe, rng: random.Random) -> str:
    number = rng.choice([b"103 Early Hints\r\nlink: </a>", b"100 Continue", b"102 Processing"])
    r.before_head.append(b"HTTP/1.1 " + number + b"\r\n\r\n")
    r.faults.add("interim")
    return number[:3].decode()


def _then_good(r: Recipe, rng: random.Random) -> str:
    """The first attempt fails as the others do; the next is answered."""
    bad = plain(r.api, stream=r.stream)
    name = rng.choice(["500", "503", "reset", "cut before content"])
    if name in ("500", "503"):
        bad.status, bad.parts, bad.content_type = int(name), [Part(_error_of(r, int(name)))], WHOLE_TYPE
    elif name == "reset":
        bad.instead = [Act.RESET]
    else:
        bad.promised = sum(len(p.data) for p in bad.parts)
        bad.parts, bad.end = (_until_token(bad, 0) if bad.stream else []), Act.CLOSE
    r.first = bad
    r.faults.add("first attempt fails")
    return f"{name}, then good"


def _earlier(r: Recipe, rng: random.Random) -> str:
    """A request that goes before on the same connection."""
    name = rng.choice(["good", "400", "429", "500", "cut", "idle connection breaks"])
    before = plain(r.api, stream=r.stream)
    if name.isdigit():
        before.status, before.content_type = int(name), WHOLE_TYPE
        before.parts, before.framing = [Part(_error_of(r, int(name)))], "length"
    elif name == "cut":
        before.promised = sum(len(p.data) for p in before.parts) + 1
        before.end = Act.CLOSE
    elif name == "idle connection breaks":
        r.breaks_idle = True
        r.faults.add("idle connection breaks")
    r.earlier = before
    return name


DIMENSIONS: dict[str, Odd] = {
    "form": _form,
    "charset": _charset,
    "pace": _pace,
    "encoding": _encoding,
    "framing": _framing,
    "type": _content_type,
    "wire": _wire,
    "interim": _interim,
    "earlier": _earlier,
}
"""What does not keep an answer from being read."""

FAULTS: dict[str, Odd] = {
    "status": _status,
    "told inside": _told_inside,
    "error after": _error_after,
    "broken off": _broken_off,
    "malformed": _malformed,
    "no answer": _no_answer,
    "then good": _then_good,
}
_WEIGHTS = [4 if name == "form" else 1 if name in ("interim", "earlier") else 2 for name in DIMENSIONS]
_STREAMS_ONLY = ("error after", "malformed")
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
    r = plain(rng.choice(APIS), stream=rng.random() < 0.6 or kind in _STREAMS_ONLY)
    faults = [f for f in FAULTS if r.stream or f not in _STREAMS_ONLY]
    wanted = set(rng.choices(list(DIMENSIONS), _WEIGHTS, k=rng.choice([0, 1, 1, 1, 2, 2, 3])))
    fault = rng.choice(faults) if rng.random() < 0.4 or not wanted else None
    if kind in FAULTS:
        fault = kind
    elif kind:
        wanted.add(kind)
    for name, apply in DIMENSIONS.items():
        if name in wanted and name != "earlier":
            if name == "form" and fault is not None:
                continue  # a fault looks for events as they are made
            if name == "charset" and fault is not None:
                continue
            r.oddities[name] = apply(r, rng)
    if fault is not None:
        r.oddities[fault] = FAULTS[fault](r, rng)
    if "earlier" in wanted and (fault is None or kind == "earlier"):
        r.oddities["earlier"] = _earlier(r, rng)
    return r
