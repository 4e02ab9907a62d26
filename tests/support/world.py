"""An engine without a proxy: calls are planned, asked and settled with a clock that stands still."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sidestep.breaker import judging
from sidestep.breaker.cooldown import Subject
from sidestep.breaker.outcomes import Kind, Outcome, Then
from sidestep.config import reading
from sidestep.dialects.base import Usage
from sidestep.routing import table
from sidestep.routing.engine import Attempt, Engine
from sidestep.routing.exchange import Exchange

WALL = 1_790_000_000.0
CHAT = "/v1/chat/completions"
HALF: Callable[[], float] = lambda: 0.5  # noqa: E731  # as random as no exploration needs


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def toml(strategy: str = "priority", top: str = "", **providers: str) -> str:
    """A route for `http://app.test/v1` to these providers, each with more TOML of its own."""
    tables = [
        f'[[providers]]\nname = "{n}"\ndialect = "openai"\nbase_url = "http://{n}.test/v1"\napi_key = "k"\n{more}\n'
        for n, more in providers.items()
    ]
    names = json.dumps(list(providers))
    route = f'[[routes]]\nintercept = ["http://app.test/v1"]\nproviders = {names}\nstrategy = "{strategy}"\n'
    return "\n".join([top, *tables, route])


class World:
    """State: the engine, the time."""

    def __init__(self, text: str, random: Callable[[], float] = HALF) -> None:
        self.engine = Engine(reading.parse(text, {}), jitter=random)
        self.now = 1000.0

    def reload(self, text: str) -> None:
        self.engine.reconfigure(reading.parse(text, {}))

    def exchange(self, body: Mapping[str, Any] | None = None, path: str = CHAT, credential: str = "") -> Exchange:
        """A call has arrived and was planned. `credential`: stands for the app's own."""
        engine = self.engine
        match = engine.routes.match("POST", "http", "app.test", 80, path)
        assert match is not None
        raw = json.dumps({"model": "m", "messages": [user("hi")], **(body or {})}).encode()
        call = match.read("", "application/json", raw)
        candidates = engine.routes.candidates(match, call.model)
        lacking = engine.lacking_models(self.now)
        home = match.home_issuer
        plan = table.plan(candidates, call, home_issuer=home, issuer_of=engine.issuer_of, knows_model=lacking)
        return Exchange(engine, match, call, plan, self.now, jitter=HALF, body_bytes=len(raw), credential=credential)

    def order(self, body: Mapping[str, Any] | None = None) -> str:
        """In which order a call would be asked, one letter a provider."""
        return "".join(c.provider.name for c in self.exchange(body).plan.candidates)

    def subject(self, name: str) -> Subject:
        """What the usual call's limits at a provider belong to."""
        exchange = self.exchange()
        return next(exchange.subject(c) for c in exchange.plan.candidates if c.provider.name == name)

    def limit(self, name: str, seconds: float) -> None:
        """A provider has refused the usual call for so long."""
        outcome = Outcome(Kind.COOLDOWN, "rate_limit", Then.NEXT, 429, seconds)
        self.engine.cooldowns.start(self.subject(name), outcome, self.now)

    def foresee(self, name: str, seconds: float) -> None:
        """A good answer to the usual call has said that its limit is used up for so long."""
        self.engine.cooldowns.foresee(self.subject(name), self.now, seconds)

    def seconds_limited(self, name: str) -> float:
        """How long the usual call will be limited there."""
        cooling = self.engine.cooldowns.find(self.subject(name), self.now)
        return 0 if cooling is None else cooling.seconds

    def settle(
        self, exchange: Exchange, outcome: Outcome = judging.SUCCESS, headers: Mapping[str, str] | None = None
    ) -> None:
        """What the session does once an answer has begun, or has failed after it had."""
        attempt = exchange.attempts[-1] if exchange.attempts else None
        assert attempt is not None
        if outcome.kind is Kind.SUCCESS:
            attempt.headers_at = attempt.content_at = self.now
        self.engine.settle(attempt, outcome, self.now)
        exchange.settled(attempt, headers or {}, self.now, WALL)

    def fail(self, exchange: Exchange, outcome: Outcome) -> None:
        """What the session does once an attempt has failed before the app saw a byte."""
        attempt = exchange.attempts[-1] if exchange.attempts else None
        assert attempt is not None
        self.settle(exchange, outcome)
        self.engine.ended(attempt, self.now)
        exchange.failed(attempt, outcome, self.now)

    def used(self, exchange: Exchange, cached: int = 150_000) -> None:
        """What the session does once the answer has told what it has taken."""
        exchange.attempts[-1].usage = Usage(200_000, 10, cached)
        exchange.used(exchange.attempts[-1])

    def call(
        self,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float = 0,
        headers: Mapping[str, str] | None = None,
        failing: str = "",
        cached: int = 150_000,
    ) -> str:
        """Have a call answered after some seconds by the first who does not fail; who was asked, in order. `cached`: so
        many tokens of its prompt came from the cache."""
        exchange = self.exchange(body)
        asked = ""
        while isinstance(attempt := exchange.next(self.now), Attempt):
            name = attempt.candidate.provider.name
            asked += name
            if name in failing:
                self.fail(exchange, judging.TIMEOUT)
                continue
            self.now += seconds
            self.settle(exchange, headers=headers)
            self.used(exchange, cached)
            self.engine.ended(attempt, self.now)
            return asked
        return asked + "-"
