"""The same provider behind a bare mitmdump and behind Sidestep: the long run is ./scripts/differential."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from support import differential, oddities, recipes, verdicts
from support.calls import APIS
from support.rawreading import Reading

WORSE_PROXY = """
import asyncio

class Worse:
    async def responseheaders(self, flow):
        flow.response.stream = True
        how = flow.response.headers.get("x-worsen", "nothing")
        await getattr(self, how)(flow.response)

    async def request(self, flow):
        if "x-worsen-request" in flow.request.headers:
            flow.request.headers["x-more"] = "1"

    async def nothing(self, response):
        pass

    async def event_lost(self, response):
        response.stream = lambda data: b"" if b" w2" in data else data

    async def byte_changed(self, response):
        response.stream = lambda data: data.replace(b" w3", b" W3")

    async def end_cut_off(self, response):
        response.stream = lambda data: data.partition(b" w5")[0]

    async def header_lost(self, response):
        del response.headers["content-type"]

    async def status_changed(self, response):
        response.status_code = 502

    async def late(self, response):
        await asyncio.sleep(2.5)

    async def swallowed_until_its_end(self, response):
        response.stream = False

    async def length_too_large(self, response):
        del response.headers["transfer-encoding"]
        response.headers["content-length"] = "100000"

    async def length_too_small(self, response):
        del response.headers["transfer-encoding"]
        response.headers["content-length"] = "100"

addons = [Worse()]
"""
WORSENINGS = [line.split("(")[0].split()[-1] for line in WORSE_PROXY.splitlines() if "response):" in line]


def test_worsenings_are_seen(tmp_path: Path) -> None:
    """Whatever a proxy does to a good answer for the worse, the harness says so, in every dialect; and where it does
    nothing, it says that too."""
    script = tmp_path / "worse.py"
    script.write_text(WORSE_PROXY)
    asked = list(itertools.product(WORSENINGS, APIS))
    last = len(asked) + 1
    streams = {last: recipes.plain("chat", stream=True)}
    streams[last].asking.headers.append(("X-Worsen-Request", "1"))
    for number, (how, api) in enumerate(asked, 1):
        # In slow bursts, so that what is swallowed until its end comes late for certain.
        made = streams[number] = oddities.with_oddity(recipes.plain(api, stream=True), "pace", "bursts")
        made.parts = [replace(p, wait=2 * p.wait) for p in made.parts]
        streams[number].headers.append(("X-Worsen", how))
    report = differential.run(tmp_path, streams, script=script, sdk_every=1000, jobs=8)
    assert [c.difference for c in report.cases if c.number == last] == ["raw client: the request was changed"]
    spared = [asked[c.number - 1] for c in report.cases if c.number < last and not c.verdict.worse]
    assert sorted(spared) == sorted(("nothing", api) for api in APIS)


def test_bare_against_bare(tmp_path: Path) -> None:
    """Between two bare proxies there is no difference: what the harness finds comes from Sidestep."""
    script = tmp_path / "same.py"
    script.write_text(differential.STREAMING)
    report = differential.run(tmp_path, _cases(40, seed=2), script=script)
    assert _told(report) == []


def test_never_worse(tmp_path: Path) -> None:
    """What an app can use without Sidestep it can use with it, byte for byte and in time."""
    report = differential.run(tmp_path, _cases(150, seed=1))
    assert _told(report) == []
    assert report.complaints == set()


def _cases(count: int, seed: int) -> dict[int, recipes.Recipe]:
    return {n: oddities.make(seed, n, slow=False) for n in range(count)}


def _told(report: differential.Report) -> list[str]:
    return [f"#{c.number} {c.recipe}: {c.difference}" for c in report.worse]


@pytest.mark.parametrize(
    ("signs", "kept"),
    [
        ([3.3, 4.9, 6.5], True),
        ([0.1, 1.7, 3.3, 4.9, 6.5], True),
        ([5.6], False),  # the first of the provider's came at 0 s
        ([0.1], False),
        ([], False),
    ],
)
def test_a_stream_that_says_nothing_may_be_held_while_its_app_is_kept_waiting(signs: list[float], kept: bool) -> None:
    whole = recipes.plain("messages", stream=True)
    recipe = replace(whole, parts=[p for p in whole.parts if not p.content])
    begun, sign = b"".join(p.data for p in recipe.parts), b'event: ping\ndata: {"type": "ping"}\n\n'

    def reading(body: bytes, times: list[float]) -> Reading:
        return Reading(200, [], body, "stalled", arrivals=[(at, n) for n, at in enumerate(times)], done_at=8.0)

    bare = reading(begun + 4 * sign, [0.0, 1.6, 3.3, 4.9, 6.5])
    verdict = verdicts.judge(recipe, bare, reading(len(signs) * sign, signs))
    assert verdict.worse is not kept
    assert not kept or verdict.name == "held_until_content"


def test_names_have_reasons() -> None:
    """Each difference that is no harm has a name of its own and a reason."""
    names = (
        [n.name for n in verdicts.NAMED]
        + list(verdicts.LATE_NAMES)
        + list(verdicts.SPARE_NAMES)
        + list(verdicts.SDK_NAMES)
    )
    assert len(set(names)) == len(names)
    assert all(len(n.reason) > 20 for n in verdicts.NAMED)
