"""What keeps an answer from being a good one: errors in every place and form, cuts, hollow answers.

Each fault changes an answer and says by words in `Recipe.faults` what has become of it. A recipe has one at most.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

from support.operations import OPERATIONS
from support.provider import Behaviour, error_body
from support.recipes import STREAM_TYPE, WHOLE_TYPE, Act, Part, Recipe, Step, grammar_of, plain

Odd = Callable[[Recipe, random.Random], str]


def error_of(r: Recipe, status: int, code: str | None = None, message: str = "it went wrong") -> bytes:
    return error_body(r.dialect, Behaviour(status=status, code=code, message=message))


_STATUSES = (
    *(400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 411, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425),
    *(426, 428, 431, 451, 498, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 527, 529, 530, 599),
    *(300, 301, 302, 303, 304, 305, 307, 308, 399, 201, 204, 205, 600, 999),
)


def _status(r: Recipe, rng: random.Random) -> str:
    r.status = rng.choice([*_STATUSES, 429, 429, 503, 503, 500, 500])
    r.reason = "Odd reason" if rng.random() < 0.3 else "X"
    r.faults.add("status")
    r.text = ""
    if r.status < 300:
        r.faults.add("unusual success")
        if r.status == 205:
            r.parts, r.framing = [], "length"
        return str(r.status)
    if r.status < 400:
        r.headers.append(("Location", "http://127.0.0.1:9/elsewhere"))
    body = rng.choice(["dialect", "dialect", "html", "text", "empty", "broken JSON", "events", "an answer", "long"])
    if body == "an answer":  # under an error's status
        return f"{r.status} {body}"
    data, r.content_type = {
        "events": (b"event: error\ndata: " + error_of(r, r.status) + b"\n\n", STREAM_TYPE),
        "long": (error_of(r, r.status, message="it went wrong " * 120_000), WHOLE_TYPE),
        "dialect": (error_of(r, r.status), WHOLE_TYPE),
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
            ("content_filter", "The response was filtered."),
            ("insufficient_quota", "You exceeded your current quota."),
            ("model_not_found", "The model does not exist."),
            ("invalid_api_key", "Incorrect API key provided."),
            ("a code of its own", "Something."),
        ]
    )
    r.text = ""
    r.faults.add("error told")
    if r.form != "events":
        told = error_of(r, 400, code, message)
        r.parts = [Part(b"[" + told + b"]" if r.form == "array" else told, comes_with="error")]
        if r.form in ("text", "bytes") and rng.random() < 0.7:
            r.content_type = WHOLE_TYPE
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
    where = rng.choice(["one word", "three words", "all words", "its finish", "its end"])
    last = {"one word": 1, "three words": 3}.get(where, 99)
    how = rng.choice(["its own", "its own", "another dialect's", "text", "a string", "named"])
    match how:
        case "its own":
            error = r.grammar.error(Behaviour())
        case "another dialect's":
            error = b'event: error\ndata: {"type": "error", "error": {"type": "api_error", "message": "x"}}\n\n'
            if r.api == "messages":
                error = b'data: {"error": {"message": "x", "code": 500}}\n\n'
        case "text":
            error = b"event: error\ndata: upstream connect error\n\n"
        case "a string":
            error = b'data: {"error": "upstream connect error"}\n\n'
        case _:
            error = b'event: error\ndata: {"message": "upstream connect error"}\n\n'
    kept = [*_until_token(r, last)]
    if where in ("its finish", "its end"):
        kept = [p for p in r.parts if where == "its end" or p.comes_with != "terminal"]
    r.parts = [*kept, Part(error, comes_with="error")]
    if rng.random() < 0.3:
        r.parts += [Part(d, comes_with="other") for d in r.grammar.terminal()]
    r.faults |= {"error event", "unfinished"}
    return f"{how} after {where}"


def _until_token(r: Recipe, count: int) -> list[Part]:
    """The parts up to and with so many tokens."""
    tokens = [i for i, p in enumerate(r.parts) if p.comes_with == "token"]
    return r.parts[: tokens[min(count, len(tokens)) - 1] + 1] if count else r.parts[: tokens[0]]


def _half(part: Part, at: int) -> Part:
    """A part up to there: no content."""
    return replace(part, data=part.data[:at], content=False)


def _broken_off(r: Recipe, rng: random.Random) -> str:
    """The connection is cut, stalls or ends at some place."""
    r.end = rng.choice([Act.CLOSE, Act.RESET, Act.STALL, None])
    whole = sum(len(p.data) for p in r.encoded())
    where = rng.choice(["before the head", "in the head", "after the head", "before content", "after content"])
    if r.form == "events":
        where = rng.choice([where, "amid an event", "before the end", "after the end", "anywhere"])
    r.faults.add("stalled" if r.end is Act.STALL else "unfinished")
    if where in ("before the head", "in the head"):
        r.end = r.end or Act.CLOSE
        r.faults.add("no head")
        head: list[Step] = [b"HTTP/1.1 200 OK\r\nContent-Ty"] if where == "in the head" else []
        r.instead = [*head, 0.05, r.end]
    elif where == "after the head":
        r.parts = []
    elif where == "anywhere" or r.form == "array":
        at = rng.randrange(sum(len(p.data) for p in r.parts))
        kept, r.parts = r.parts, []
        for part in kept:
            r.parts.append(part if at >= len(part.data) else _half(part, at))
            at -= len(part.data)
            if at <= 0:
                break
    elif not r.stream:
        data = r.parts[0].data
        r.parts = [replace(r.parts[0], data=data[: len(data) // 2])]
    elif where == "before content":
        r.parts = _until_token(r, 0)
    elif where == "after content":
        r.parts = _until_token(r, 3)
    elif where == "amid an event":
        kept = _until_token(r, 4)
        r.parts = [*kept[:-1], _half(kept[-1], len(kept[-1].data) // 2)]
    elif where == "before the end":
        r.parts = [p for p in r.parts if p.comes_with != "terminal"]
    else:
        r.faults.discard("unfinished")
        r.faults.add("whole all the same")
    if r.end is not None and r.framing.startswith("length") and where != "after the end":
        r.promised = whole
    elif r.end is None and r.framing.startswith("length"):
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
    names = ["html", "empty", "text"]
    if r.api not in OPERATIONS:
        names += ["hollow", "the other form"]
    name = rng.choice(names)
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


def _then_good(r: Recipe, rng: random.Random) -> str:
    """The first attempt fails as the others do; the next is answered."""
    bad = plain(r.api, stream=r.stream)
    name = rng.choice(["500", "503", "reset", "cut before content"])
    if name in ("500", "503"):
        bad.status, bad.parts, bad.content_type = int(name), [Part(error_of(r, int(name)))], WHOLE_TYPE
    elif name == "reset":
        bad.instead = [Act.RESET]
    else:
        bad.promised = sum(len(p.data) for p in bad.parts)
        bad.parts, bad.end = (_until_token(bad, 0) if bad.stream else []), Act.CLOSE
    r.first = bad
    r.faults.add("first attempt fails")
    return f"{name}, then good"


FAULTS: dict[str, Odd] = {
    "status": _status,
    "told inside": _told_inside,
    "error after": _error_after,
    "broken off": _broken_off,
    "malformed": _malformed,
    "no answer": _no_answer,
    "then good": _then_good,
}
STREAMS_ONLY = ("error after", "malformed")
"""Faults of streams of events alone."""
