"""What apps and providers make up fills no memory: no table grows with the length of what is in it, or without end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from support import tables
from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, request
from support.settings import config

Make = Callable[..., Provider]
Start = Callable[..., Mitmdump]
GOOD = b'{"id":"%d","model":"%s","choices":[{"message":{"content":"x"}}]}'
MEGABYTE = "x" * (1 << 20)
JSON = ("Content-Type", "application/json")


def body(model: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()


def sizes(m: Mitmdump) -> dict[str, int]:
    with Wire(m) as wire:
        found: dict[str, int] = json.loads(wire.send(request("http://tables.test/", b"", method="GET")).answer()[2])
    return found


def call(m: Mitmdump, sent: bytes) -> None:
    with Wire(m, timeout=30) as wire:
        wire.send(sent).head()


@pytest.fixture
def start(proxy: Start) -> Callable[[str], Mitmdump]:
    return lambda text: proxy(text, "-s", str(Path(tables.__file__)))


HUGE: dict[str, Callable[[str, int], bytes]] = {
    "models": lambda url, i: request(url, body(f"{i}{MEGABYTE}"), JSON),
    "hosts": lambda url, i: request(url, body("m"), JSON).replace(b"Host: ", f"Host: {i}{MEGABYTE}".encode(), 1),
    "names": lambda url, i: request(url, body("m"), JSON, (f"X-{i}-{MEGABYTE}", "a")),
    "keys": lambda url, i: request(url, body("m"), JSON, ("Authorization", f"Bearer {i}{MEGABYTE}")),
    "paths": lambda url, i: request(f"{url}?{i}={MEGABYTE}", body("m"), JSON),
    "users": lambda url, i: request(url, body("m")[:-1] + f',"user":"{i}{MEGABYTE}"}}'.encode(), JSON),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_has_a_megabyte_is_not_kept(
    name: str, provider: Make, start: Callable[[str], Mitmdump], tmp_path: Path
) -> None:
    """A hundred and fifty of them, and the proxy has not grown by more than a bare one, which has tables of its own."""
    a, b = provider("a"), provider("b")
    a.default = b.default = Behaviour(body=GOOD % (1, b"m"))
    url = f"{a.url()}/chat/completions"
    make = HUGE[name]

    def growth(m: Mitmdump) -> int:
        call(m, request(url, body("m"), JSON))
        memory = m.memory
        for i in range(150):
            call(m, make(url, i))
        return m.memory - memory

    with Mitmdump(tmp_path / "bare", None, script=None) as bare:
        without = growth(bare)
    # Bodies of a megabyte are kept for a replay, up to 32 of them.
    kept = 60 << 20 if name == "users" else 40 << 20
    assert growth(start(config("chat", a, b, own=a))) < without + kept


def test_what_is_made_up_has_an_end(provider: Make, start: Callable[[str], Mitmdump]) -> None:
    """Models, hosts, names, keys and users, each as long as it may be, in every call others; the same of answers."""
    a, b = provider("a"), provider("b")
    m = start(config("chat", a, b, own=a, attempts={"wait_seconds": 0, "per_provider": 1}))
    url, long = f"{a.url()}/chat/completions", "y" * 240

    def made_up(i: int) -> None:
        a.default = Behaviour(
            body=GOOD % (i, f"{long}{i}".encode()),
            status=(200, 429, 200, 404)[i % 4],
            headers={"x-request-id": f"{long}{i}", "retry-after": "1", f"x-{i}": long},
        )
        fields = (JSON, ("Authorization", f"Bearer {long}{i}"), (f"X-{long}-{i}", long), ("X-Api-Key", f"{i}{long}"))
        call(m, request(url, body(f"{long}{long}{i}"), *fields))
        call(m, request(url, b"", method="GET").replace(b"Host: ", f"Host: {long}{i}.".encode(), 1))

    for i in range(100):
        made_up(i)
    before, memory = sizes(m), m.memory
    for i in range(100, 400):
        made_up(i)
    after = sizes(m)
    assert m.memory - memory < 12 << 20
    grown = {name: (before.get(name, 0), size) for name, size in after.items() if size > before.get(name, 0)}
    for name, (_, size) in grown.items():
        if name.endswith(" bytes"):
            assert size <= 33 << 20, name
        elif f"{name} bytes" not in after:  # not bounded in bytes: then in entries
            assert size <= 1024, (name, grown)
