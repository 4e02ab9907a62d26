"""The dashboard for Grafana: it is well-formed, and asks for metrics and labels that exist."""

from __future__ import annotations

import itertools
import json
import re

from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from sidestep import status
from sidestep.breaker import judging
from sidestep.cli import main
from sidestep.dialects.base import Usage
from sidestep.routing.engine import Attempt
from support.dashboard import TEXT, panels, queries
from support.world import World, toml

GRAFANAS_OWN = {"instance"}


def known() -> dict[str, set[str]]:
    """All that `/metrics` may tell: names, each with its labels."""
    world = World(toml(a="", b=""))
    exchange = world.exchange()
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    attempt.usage, attempt.cost = Usage(1, 2), 0.1
    world.settle(exchange, judging.SUCCESS)
    engine = world.engine
    engine.ended(attempt, world.now)
    engine.requests_total["r", "answered"] += 1
    engine.durations.took(("r", "answered"), 1)
    engine.hedges_total["b", "won"] += 1
    engine.wasted_tokens["a"] += 1
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(status.metrics(engine, world.now).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_each_query_asks_for_what_there_is() -> None:
    there = known()
    asked: set[str] = set()
    for query in queries():
        names = re.findall(r"sidestep_\w+", query)
        assert names, query
        asked.update(names)
        labels = set(re.findall(r"(\w+)=", query))
        labels.update(label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(","))
        for name in names:
            assert name in there, query
        assert labels - GRAFANAS_OWN <= set().union(*(there[name] for name in names)), query
    told = {re.sub(r"_(bucket|count|sum)$", "", name) for name in there}
    unasked = told - {re.sub(r"_bucket$", "", name) for name in asked}
    assert unasked <= {"sidestep_circuit_failures", "sidestep_rerouted_total", "sidestep_hedge_wasted_tokens_total"}


def test_its_panels_fit() -> None:
    """Each has a number of its own and a place that no other covers; legends name labels that their queries keep."""
    boxes = []
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        boxes.append(
            {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
        )
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                kept = re.search(rf"by \([^)]*\b{label}\b", target["expr"])
                assert kept or " by " not in target["expr"], target
    assert not any(a & b for a, b in itertools.combinations(boxes, 2))
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert {v["name"] for v in json.loads(TEXT)["templating"]["list"]} == set(re.findall(r"\$\{?([a-z]\w*)", TEXT))


def test_it_is_printed() -> None:
    assert CliRunner().invoke(main, ["dashboard"]).output == TEXT
