"""A conversation of several turns stays with the provider that last answered it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sidestep.breaker import judging
from sidestep.breaker.circuit import State
from sidestep.breaker.windows import Standing, Window
from sidestep.dialects import conversations
from sidestep.dialects.base import Conversation
from sidestep.dialects.conversations import END_LETTERS, conversation_of
from sidestep.routing import sticking
from sidestep.routing.engine import Attempt
from sidestep.routing.sticking import Conversations
from support.flows import ask
from support.world import World, answer, toml, user

STRATEGIES = ("priority", "weighted", "cheapest", "fastest")
SCOPE = ("r", "m")


def of(messages: Any) -> Conversation:
    found = conversation_of(msgspec.Raw(json.dumps(messages).encode()))
    assert found is not None
    return found


def turns(count: int, text: str = "hi") -> dict[str, Any]:
    """A conversation at its nth turn."""
    messages = [user(text)]
    for i in range(1, count):
        messages += [answer(f"answer {i}"), user(f"turn {i}")]
    return {"messages": messages}


def image(source: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image", "source": source, **more}]}


# --- which conversation it is


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([user("a")], [user("a"), answer("b"), user("c")]),
        ([{"role": "system", "content": "Monday"}, user("a")], [user("a"), answer("b"), user("c")]),
        ([answer("how may I help?"), user("a")], [answer("how may I help?"), user("a"), answer("b"), user("c")]),
        ([user("surroundings"), user("a")], [user("surroundings"), user("a"), answer("b"), user("c")]),
        ("a", [user("a"), {"type": "reasoning", "summary": [], "id": "r"}, user("c")]),
        ("a", [{"type": "message", **user("a")}, {"type": "function_call", "name": "f"}]),
        ([{"parts": [{"text": "a"}]}], [{"parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}]),
        ([user("a" * 99_999)], [user("a" * 99_999), answer("b"), user("c")]),
        ([image("x", cache_control={})], [image("x"), answer("b"), image("c", cache_control={})]),
        ([user(f"{i}") for i in range(20)], [*(user(f"{i}") for i in range(8)), answer("b")]),
        ([user(f"{i}") for i in range(20)], [*(user(f"{i}") for i in range(20)), answer("b")]),
    ],
)
def test_the_second_turn_is_known_by_the_first(first: Any, second: Any) -> None:
    """Both have one opening, whatever stands before it and around it; only the second bears an answer."""
    one, two = of(first), of(second)
    assert one.opening == two.opening
    assert one.answered is None
    assert two.answered is not None


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([user("a")], [user("b")]),
        ([user("a"), user("b")], [user("ab")]),
        ([user("a" * END_LETTERS + "x" + "a" * END_LETTERS)], [user("a" * END_LETTERS + "xx" + "a" * END_LETTERS)]),
        ([user("x" + "a" * 99_999)], [user("y" + "a" * 99_999)]),
        ([user("a" * 99_999 + "x")], [user("a" * 99_999 + "y")]),
        ([image("x")], [image("y")]),
        ([image("x" * 200_000)], [image("x" * 200_001)]),
    ],
)
def test_others_are_others(one: Any, two: Any) -> None:
    """Another first message is another conversation, wherever it differs in what is looked at."""
    assert of(one).opening != of(two).opening


def test_the_first_answer_tells_conversations_with_one_opening_apart() -> None:
    """Half of all conversations begin with the same word."""
    assert of([user("hi"), answer("a"), user("x")]).answered == of([user("hi"), answer("a"), user("y")]).answered
    assert of([user("hi"), answer("a"), user("x")]).answered != of([user("hi"), answer("b"), user("x")]).answered
    for content in (None, "let me see"):
        x, y = ({"role": "assistant", "content": content, "tool_calls": [{"id": i}]} for i in "xy")
        assert of([user("hi"), x]).answered != of([user("hi"), y]).answered


@pytest.mark.parametrize(
    "text", ['[{"role":"user","content":"\\ud800"}]', "", "null", "{}", "[]", '""', "7", "[", '{"role":"user"}']
)
def test_no_messages_are_no_conversation(text: str) -> None:
    """What is no list of messages, or cannot be read, is nobody's."""
    assert conversation_of(msgspec.Raw(text.encode())) is None


def test_a_digest_holds_no_word() -> None:
    """Sixteen bytes a digest, and nobody else can make them from the same words."""

    found = of([user("a secret"), answer("too")])
    assert {len(found.opening), len(found.answered or b""), len(found.end)} == {16}
    key, conversations._KEY = conversations._KEY, b"another process"
    try:
        assert of([user("a secret")]).opening != found.opening
    finally:
        conversations._KEY = key


# --- the table


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The conversation not answered for longest is forgotten first."""
    monkeypatch.setattr(sticking, "MAX_CONVERSATIONS", 3)
    table = Conversations()
    for i in (0, 1, 2, 0, 3):
        table.answered(SCOPE, of(turns(1, str(i))["messages"]), "a", 300, i)
    assert len(table) == 3
    kept = [i for i in range(4) if table.stay(SCOPE, of(turns(2, str(i))["messages"]), 5)]
    assert kept == [0, 2, 3]


def test_it_empties_by_itself() -> None:
    """Entries whose time is over are forgotten as soon as anybody looks."""
    table = Conversations()
    table.answered(SCOPE, of(turns(1, "a")["messages"]), "a", 10, 0)
    table.answered(SCOPE, of(turns(1, "b")["messages"]), "a", 10, 5)
    assert (table.any(9.9), len(table)) == (True, 2)
    assert (table.any(10), len(table)) == (True, 1)
    assert (table.any(15), len(table)) == (False, 0)


def test_a_stay_behind_a_longer_one_ends_too() -> None:
    """Providers may keep conversations for different times: each ends at its own."""
    table = Conversations()
    table.answered(SCOPE, of(turns(1, "long")["messages"]), "a", 100, 0)
    table.answered(SCOPE, of(turns(1, "short")["messages"]), "b", 10, 0)
    assert table.any(10)
    stay = table.stay(SCOPE, of(turns(2, "short")["messages"]), 9.9)
    assert stay is not None
    assert stay.provider == "b"
    assert table.stay(SCOPE, of(turns(2, "short")["messages"]), 10) is None


def test_how_many_would_go_on_where() -> None:
    """Of one route, whatever their model, while their time lasts."""
    table = Conversations()
    for i, (route, model, provider, seconds) in enumerate(
        [
            ("r", "m", "a", 10),
            ("r", "n", "a", 20),
            ("r", None, "b", 10),
            ("s", "m", "a", 10),
        ]
    ):
        table.answered((route, model), of(turns(1, str(i))["messages"]), provider, seconds, 0)
    assert [table.staying("r", now) for now in (0, 9.9, 10, 20)] == [{"a": 2, "b": 1}, {"a": 2, "b": 1}, {"a": 1}, {}]
    assert table.staying("s", 0) == {"a": 1}
    table.keep({"b"})
    assert (table.staying("r", 0), len(table)) == ({"b": 1}, 1)


def test_what_an_answer_has_taken_is_told_of_its_own_stay() -> None:
    """And a stay ends with the answer of that provider alone."""
    table = Conversations()
    first = of(turns(1)["messages"])
    table.answered(SCOPE, first, "a", 100, 0, home="h")
    for provider, tokens in (("b", (9, 9)), ("a", (7, 5))):
        table.used(SCOPE, first, provider, *tokens)
    stay = table.stay(SCOPE, of(turns(2)["messages"]), 1)
    assert stay is not None
    assert (stay.provider, stay.home, stay.prompt, stay.cached) == ("a", "h", 7, 5)
    table.broke(SCOPE, first, "b")
    assert len(table) == 1
    table.broke(SCOPE, first, "a")
    assert len(table) == 0
    table.used(SCOPE, first, "a", 1, 1)
    table.broke(SCOPE, first, "a")
    assert len(table) == 0


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_provider_that_keeps_none(seconds: float) -> None:
    """Its answer ends the stay that there was."""
    table = Conversations()
    first = of(turns(1)["messages"])
    table.answered(SCOPE, first, "a", 100, 0)
    table.answered(SCOPE, first, "b", seconds, 1)
    assert len(table) == 0


# --- calls


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_conversation_stays_where_it_was_rerouted(strategy: str) -> None:
    """From the provider that took its place it does not go back while that one answers, and has its prompt in a cache;
    others do at once."""
    more = {name: f"weight = {9 - i}" for i, name in enumerate("abc")}
    if strategy == "cheapest":
        more = {name: f"{text}\nprice = {{ input = {i}, output = {i} }}" for i, (name, text) in enumerate(more.items())}
    world = World(toml(strategy, **more))
    world.engine.hold("a", State.FORCED_OPEN)
    world.engine.hold("b", State.FORCED_OPEN)
    assert world.call(turns(1)) == "c"
    world.engine.hold("a", None)
    world.engine.hold("b", None)
    for count in range(2, 30):
        assert world.call(turns(count), seconds=20) == "c"
    if strategy != "fastest":
        assert world.call(turns(1, "another"))[0] == "a"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_single_turn_is_never_moved(strategy: str) -> None:
    """The same single prompt again and again goes by the strategy, however often somebody else answered it."""
    world = World(toml(strategy, a="weight = 9\nprice = { input = 0, output = 0 }", b=""))
    world.engine.hold("a", State.FORCED_OPEN)
    for _ in range(5):
        assert world.call(turns(1), seconds=9) == "b"
    world.engine.hold("a", None)
    assert world.call(turns(1)) == "a"


def test_interleaved_conversations_stay_apart() -> None:
    """By turns, each conversation begins where its turn is and goes on there."""
    world = World(toml("weighted", a="", b=""))
    begun = [world.call(turns(1, str(i))) for i in range(6)]
    assert begun == ["a", "b"] * 3
    for count in range(2, 5):
        assert [world.call(turns(count, str(i))) for i in range(6)] == begun
    assert world.call(turns(1, "new")) == "a", "they took nobody's turn"


def test_it_goes_on_where_it_was_last_answered() -> None:
    """A failure of its provider moves it on, for good."""
    world = World(toml("priority", a="", b="", c=""))
    assert world.call(turns(1), failing="a") == "ab"
    assert world.call(turns(2), failing="b") == "ba"
    assert world.call(turns(3), failing="a") == "ab"
    assert world.call(turns(4), failing="ab") == "bac"
    assert world.call(turns(5)) == "c"


# --- home


@pytest.mark.parametrize(("cached", "goes"), [(0, True), (9_999, True), (10_000, False), (100_000, False)])
def test_it_goes_home_unless_its_cache_is_elsewhere(cached: int, goes: bool) -> None:
    """After a blip, at the next turn; where prices are not known, by the tokens."""
    world = World(toml("priority", a="", b=""))
    assert world.call(turns(1)) == "a"
    assert world.call(turns(2), failing="a", cached=cached) == "ab"
    assert world.call(turns(3), cached=cached) == ("a" if goes else "b")
    assert world.call(turns(4), cached=cached) == ("a" if goes else "b")


def test_it_does_not_go_home_before_that_is_well() -> None:
    world = World(toml("priority", a="", b=""))
    assert world.call(turns(1), failing="a", cached=0) == "ab"
    world.limit("a", 30)
    assert world.call(turns(2), cached=0) == "b"
    world.now += 31
    assert world.call(turns(3), cached=0) == "a"


@pytest.mark.parametrize(
    ("at_home", "there", "cached", "goes"),
    [
        (2.0, 2.0, 0, True),
        (2.0, 2.0, 150_000, True),
        (3.0, 2.96, 0, True),
        (3.0, 2.94, 0, False),
        (1.0, 2.0, 0, True),
    ],
)
def test_what_a_turn_costs_decides_where_prices_are_known(
    at_home: float, there: float, cached: int, goes: bool
) -> None:
    """A prompt of 200,000 tokens: less than a cent is no reason to be away. What a configuration prices has no other
    price for cached tokens."""
    price = "price = {{ input = {}, output = 1 }}"
    world = World(toml("priority", a=price.format(at_home), b=price.format(there)))
    assert world.call(turns(1), failing="a", cached=cached) == "ab"
    assert world.call(turns(2), cached=cached) == ("a" if goes else "b")


def test_by_the_price_list_the_cache_counts() -> None:
    world = World(toml("priority", a="", b=""))
    body = {"model": "gpt-4o"}
    assert world.call({**body, **turns(1)}, failing="a", cached=100_000) == "ab"
    assert world.call({**body, **turns(2)}, cached=4_000) == "b", "0.125 dollars"
    assert world.call({**body, **turns(3)}, cached=4_000) == "a", "half a cent"


def test_home_is_a_plan() -> None:
    """What is paid already costs nothing more."""
    world = World(toml("priority", a="", b=""))
    assert world.call(turns(1), failing="a") == "ab"
    week = Window("7d", "", Standing.ALLOWED, 0.5, 9_999.0)
    world.engine.plans.told(world.subject("a"), (week,), world.now)
    assert world.call(turns(2)) == "a"


def test_the_same_turn_again_goes_where_it_was_answered() -> None:
    world = World(toml("priority", a="", b=""))
    assert world.call(turns(2), failing="a", cached=0) == "ab"
    assert world.call(turns(2), cached=0) == "b"
    assert world.call(turns(3), cached=0) == "a"


def test_home_is_told_once() -> None:
    world = World(toml("priority", a="", b=""))
    world.call(turns(1), failing="a", cached=0)
    assert world.exchange(turns(2)).going_home == world.exchange(turns(2)).stays_with == "a"
    assert world.exchange(turns(1)).stays_with is None
    assert world.call(turns(2), cached=0) == "a"
    assert world.exchange(turns(3)).going_home is None


def test_by_another_strategy_home_is_who_began() -> None:
    world = World(toml("weighted", a="", b=""))
    assert world.call(turns(1)) == "a"
    assert world.call(turns(2), failing="a", cached=0) == "ab"
    assert world.call(turns(3), cached=0) == "a"


def test_it_does_not_wait_for_its_provider() -> None:
    """An open circuit or a cooldown of its provider: the next one in order, and back there is no hurry."""
    world = World(toml("priority", a="", b="", c=""))
    world.call(turns(1), failing="ab")
    assert world.order(turns(2)) == "cab"
    world.limit("c", 10)
    assert world.order(turns(2)) == "abc"
    world.now += 10
    assert world.order(turns(2)) == "cab"
    world.engine.hold("c", State.FORCED_OPEN)
    assert world.order(turns(2)) == "abc"


def test_it_ends_after_the_last_answer() -> None:
    """`stick_seconds` count from the last answer; each one begins them anew."""
    world = World(toml("priority", "[routing]\nstick_seconds = 100", a="", b=""))
    world.call(turns(1), failing="a")
    for count in range(2, 5):
        world.now += 99
        assert world.call(turns(count)) == "b"
    world.now += 100
    assert world.call(turns(5)) == "a"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_zero_turns_it_off(strategy: str) -> None:
    """With `stick_seconds = 0` every turn goes by the strategy, and nothing is remembered."""
    off = "[routing]\nstick_seconds = 0"
    prices = {name: f"price = {{ input = {i}, output = {i} }}\nweight = {99 - 98 * i}" for i, name in enumerate("ab")}
    world = World(toml(strategy, off, **prices))
    assert world.call(turns(1), seconds=1, failing="a" if strategy == "priority" else "")[-1] in "ab"
    if strategy == "fastest":
        assert world.call(turns(1), seconds=9) == "b"
    assert [world.call(turns(count)) for count in range(2, 5)] == ["a"] * 3
    assert len(world.engine.conversations) == 0


def test_one_provider_may_keep_none() -> None:
    """The table can be set on one provider: its answer ends an earlier stay and begins none."""
    world = World(toml("priority", a="", b="", c="[providers.routing]\nstick_seconds = 0"))
    world.call(turns(1), failing="a")
    assert world.call(turns(2), failing="ba") == "bac"
    assert world.call(turns(3)) == "b", "by its opening, which b answered"
    assert world.call(turns(4), failing="ba") == "bac"
    assert len(world.engine.conversations) == 1


def test_examples_in_a_prompt_are_no_conversation() -> None:
    """A prompt with the same examples each time never grows: its calls go by the strategy. The same call again,
    or the next turn of it, stays."""
    world = World(toml("weighted", a="", b=""))
    examples = [user("2+2"), answer("4"), user("3+3"), answer("6")]
    asked = [world.call({"messages": [*examples, user(str(i))]}) for i in range(6)]
    assert asked == ["a", "b"] * 3
    assert world.call({"messages": [*examples, user("5")]}) == "b"
    assert world.call({"messages": [*examples, user("5"), answer("?"), user("go on")]}) == "b"


def test_another_model_is_another_cache() -> None:
    """What one model has cached helps no other."""
    world = World(toml("priority", a="", b=""))
    world.call(turns(1), failing="a")
    assert world.order(turns(2)) == "ba"
    assert world.order({**turns(2), "model": "n"}) == "ab"


def test_a_stream_that_broke_off_keeps_nobody() -> None:
    """A success that is taken back is no answer: the same turn again goes by the strategy."""
    world = World(toml("priority", a="", b=""))
    world.engine.hold("a", State.FORCED_OPEN)
    exchange = world.exchange(turns(2))
    attempt = exchange.next(world.now)
    assert isinstance(attempt, Attempt)
    world.settle(exchange)
    world.used(exchange)
    world.engine.hold("a", None)
    assert world.order(turns(3)) == "ba"
    world.settle(exchange, judging.TRUNCATED)
    assert world.order(turns(3)) == "ab"


@pytest.mark.parametrize("strategy", ["priority", "weighted"])
def test_signed_thinking_stays_as_well(strategy: str) -> None:
    """Among the providers of one issuer a conversation with its reasoning stays where its cache is; no strategy moves
    it, and others come last."""
    text = toml(strategy, a='issuer = "x"', b='issuer = "x"\nweight = 9', c='issuer = "y"').replace(
        "openai", "anthropic"
    )
    text = text.replace("http://app.test/v1", "http://app.test")
    world = World(text)
    thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"}]}
    from sidestep.dialects.common import digest

    world.engine.issued((digest(b"s"),), world.engine.settings.providers[0])
    body = {"messages": [user("hi"), thought, user("so?")]}

    def order() -> str:
        return "".join(c.provider.name for c in world.exchange(body, "/v1/messages").plan.candidates)

    assert order() == "abc"
    exchange = world.exchange({"messages": [user("hi")]}, "/v1/messages")
    world.engine.hold("a", State.FORCED_OPEN)
    exchange.next(world.now)
    world.settle(exchange)
    world.used(exchange)
    world.engine.hold("a", None)
    assert order() == "bac"


def test_a_reload_keeps_the_stays_with_unchanged_providers() -> None:
    """Those with a provider that has changed are forgotten: it may be another one under the same name."""
    world = World(toml("priority", a="", b=""))
    world.call(turns(1), failing="a")
    world.reload(toml("priority", a="drop_fields = ['x']", b=""))
    assert world.order(turns(2)) == "ba"
    world.reload(toml("priority", a="", b="drop_fields = ['x']"))
    assert world.order(turns(2)) == "ab"


def test_a_healthy_priority_route_remembers_nothing() -> None:
    """Only what was rerouted is remembered, and forgotten once it went back."""
    world = World(toml("priority", a="", b=""))
    assert [world.call(turns(count)) for count in range(1, 4)] == ["a"] * 3
    assert len(world.engine.conversations) == 0
    world.call(turns(4), failing="a")
    assert len(world.engine.conversations) == 1
    assert world.call(turns(5), failing="b") == "ba"
    assert world.call(turns(6)) == "a"


def test_a_plan_that_is_nearly_used_up_is_left_to_the_conversations_that_it_has_begun() -> None:
    """With nobody else left a new one goes there all the same."""
    w = World(toml("priority", a="", b=""))
    plan = (Window("5h", "", Standing.ALLOWED, 0.985, 900.0),)
    w.engine.plans.told(w.subject("a"), plan, w.now)
    new = w.exchange({"messages": [user("hi")]})
    begun = w.exchange({"messages": [user("hi"), answer("hello"), user("more")]})
    assert [ask(w, exchange).candidate.provider.name for exchange in (new, begun)] == ["b", "a"]
    assert [(r.provider, r.reason, r.retry_after) for r in new.refused] == [
        ("a", "plan (5h is nearly used up)", 900.0),
    ]
    w.limit("b", 600)
    w.engine.hold("b", State.FORCED_OPEN)
    again = w.exchange({"messages": [user("hi")]})
    assert ask(w, again).candidate.provider.name == "a"


def test_who_is_given_back_by_hand_has_no_limits() -> None:
    """A plan may have been topped up before its reset; others' limits are their own."""
    w = World(toml("priority", a="", b=""))
    window = Window("5h", "", Standing.REJECTED, 1.0, 900.0)
    for name in "ab":
        w.limit(name, 600)
        w.engine.plans.told(w.subject(name), (window,), w.now)
    w.engine.hold("a", None)
    assert (w.seconds_limited("a"), w.seconds_limited("b")) == (0, 600)
    assert (w.engine.plans.of("a", w.now), w.engine.plans.of("b", w.now)) == ([], [(window,)])
    assert ask(w, w.exchange()).candidate.provider.name == "a"
