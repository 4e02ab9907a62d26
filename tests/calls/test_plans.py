"""Limits in the forms in which vendors tell them: until when, whose key, and which models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from sidestep.breaker.cooldown import Cooldowns, Subject
from sidestep.breaker.outcomes import Kind
from sidestep.breaker.plans import Plans
from sidestep.breaker.windows import Standing, Window, limit, windows
from sidestep.calls.watching import Watch
from sidestep.dialects import DIALECTS
from sidestep.dialects.base import Call

WALL = 1_790_000_000.0
KEY = "fingerprint"
ACCOUNT, MODEL, FAMILY = "the account", "the model", "the family"
UNIFIED = "anthropic-ratelimit-unified"


def at(seconds: float) -> str:
    return str(int(WALL + seconds))


def claude(together: str = "rejected", **told: Any) -> dict[str, str]:
    """`_5h=("rejected", 0.99, 3600)`: a window's status, use and reset."""
    headers = {f"{UNIFIED}-status": together}
    for name, (status, used, seconds) in told.items():
        window = name.removeprefix("_")
        headers[f"{UNIFIED}-{window}-status"] = status
        headers[f"{UNIFIED}-{window}-utilization"] = str(used)
        headers[f"{UNIFIED}-{window}-reset"] = at(seconds)
    return headers


def claude_error(kind: str = "rate_limit_error", message: str = "This request would exceed your limit.") -> Any:
    return {"type": "error", "error": {"type": kind, "message": message}}


def codex(**told: str) -> dict[str, str]:
    return {f"x-codex-{name.replace('__', '-').replace('_', '-')}": value for name, value in told.items()}


def chatgpt(**more: Any) -> Any:
    return {"error": {"type": "usage_limit_reached", "message": "The usage limit has been reached", **more}}


def google(**details: Any) -> Any:
    kinds = {"retryDelay": "RetryInfo", "quotaResetDelay": "ErrorInfo"}
    listed = [
        {"@type": f"type.googleapis.com/google.rpc.{kinds.get(k, 'ErrorInfo')}", k: v} for k, v in details.items()
    ]
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded", "details": listed}}


OVERAGE = {word: {f"{UNIFIED}-overage-status": word} for word in ("allowed", "rejected")}


@dataclass
class Limit:
    """A refusal, and what it is to say. `seconds` None: no time is named."""

    name: str
    dialect: str
    seconds: float | None
    scope: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    status: int = 429
    model: str = "claude-opus-4-5"
    reason: str | None = None


ANTHROPIC = [
    Limit(
        "5h rejected", "anthropic", 3600, ACCOUNT, claude(_5h=("rejected", 1.01, 3600), _7d=("allowed", 0.4, 400_000))
    ),
    Limit("7d rejected", "anthropic", 400_000, ACCOUNT, claude(_5h=("allowed", 0.2, 60), _7d=("rejected", 1, 400_000))),
    Limit("both", "anthropic", 400_000, ACCOUNT, claude(_5h=("rejected", 1, 60), _7d=("rejected", 1, 400_000))),
    Limit(
        "a family's",
        "anthropic",
        7_200,
        FAMILY,
        claude(_5h=("allowed", 0.2, 60), _7d=("allowed", 0.4, 400_000), _7d_opus=("rejected", 1, 7_200)),
    ),
    Limit(
        "a family's and all",
        "anthropic",
        900,
        ACCOUNT,
        claude(_5h=("rejected", 1, 900), _7d_opus=("rejected", 1, 7_200)),
    ),
    Limit(
        "retry-after beside", "anthropic", 3600, ACCOUNT, {**claude(_5h=("rejected", 1, 3600)), "retry-after": "7999"}
    ),
    Limit(
        "a family's, of two", "anthropic", 7_200, FAMILY, claude(_7d_opus=("rejected", 1, 7_200)), model="Claude-Opus-5"
    ),
    Limit("a family of an unknown name", "anthropic", 7_200, MODEL, claude(_7d_oi=("rejected", 1, 7_200))),
    Limit("billed beyond", "anthropic", 3600, ACCOUNT, {**claude(_5h=("rejected", 1, 3600)), **OVERAGE["rejected"]}),
    Limit(
        "billed beyond, and a burst",
        "anthropic",
        30,
        MODEL,
        {**claude("allowed", _5h=("rejected", 1.2, 3600)), **OVERAGE["allowed"], "retry-after": "30"},
        reason="rate_limit",
    ),
    Limit("forty days", "anthropic", 31 * 86_400, ACCOUNT, claude(_7d=("rejected", 1, 40 * 86_400))),
    Limit("in words alone", "anthropic", 600, ACCOUNT, {}, claude_error(message="You've hit your weekly limit.")),
    Limit("in other words", "anthropic", 600, ACCOUNT, {}, claude_error(message="Session limit reached")),
    Limit(
        "403", "anthropic", 600, ACCOUNT, {}, claude_error("permission_error", "You have reached your usage limit"), 403
    ),
    Limit(
        "families', of two",
        "anthropic",
        7_200,
        FAMILY,
        claude(_7d_opus=("rejected", 1, 400_000), _7d_sonnet=("rejected", 1, 7_200)),
        model="claude-sonnet-4-5",
    ),
    Limit(
        "a burst while another family's is used up",
        "anthropic",
        7,
        MODEL,
        {**claude("allowed", _5h=("allowed", 0.2, 900), _7d_opus=("rejected", 1, 400_000)), "retry-after": "7"},
        model="claude-sonnet-4-5",
        reason="rate_limit",
    ),
    Limit(
        "a family's, together alone",
        "anthropic",
        7_200,
        FAMILY,
        {
            f"{UNIFIED}-status": "rejected",
            f"{UNIFIED}-reset": at(7_200),
            f"{UNIFIED}-representative-claim": "seven_day_opus",
            f"{UNIFIED}-5h-status": "allowed",
            f"{UNIFIED}-5h-reset": at(60),
        },
    ),
    Limit(
        "its reset together alone",
        "anthropic",
        900,
        ACCOUNT,
        {f"{UNIFIED}-status": "rejected", f"{UNIFIED}-reset": at(900), f"{UNIFIED}-5h-status": "rejected"},
    ),
    Limit(
        "billed beyond, together rejected, and a burst",
        "anthropic",
        30,
        MODEL,
        {
            **claude("rejected", _5h=("rejected", 1.2, 3600)),
            **OVERAGE["allowed"],
            f"{UNIFIED}-reset": at(3600),
            "retry-after": "30",
        },
        reason="rate_limit",
    ),
    Limit("nothing at all", "anthropic", None, MODEL, {}, [], reason="rate_limit"),
    Limit("without a reset", "anthropic", 50, ACCOUNT, {f"{UNIFIED}-5h-status": "rejected", "retry-after": "50"}),
    Limit(
        "together alone", "anthropic", 1_800, ACCOUNT, {f"{UNIFIED}-status": "rejected", f"{UNIFIED}-reset": at(1_800)}
    ),
    Limit(
        "a burst",
        "anthropic",
        None,
        MODEL,
        claude("allowed", _5h=("allowed", 0.3, 9_000), _7d=("allowed", 0.3, 400_000)),
        reason="rate_limit",
    ),
    Limit(
        "a burst that names its time",
        "anthropic",
        12,
        MODEL,
        {**claude("allowed_warning", _5h=("allowed_warning", 0.9, 9_000)), "retry-after": "12"},
        reason="rate_limit",
    ),
    Limit(
        "odd letters", "anthropic", 60, ACCOUNT, {f"{UNIFIED}-5h-status": " Rejected ", f"{UNIFIED}-5h-reset": at(60)}
    ),
    Limit(
        "ISO time",
        "anthropic",
        40,
        ACCOUNT,
        {f"{UNIFIED}-5h-status": "rejected", f"{UNIFIED}-5h-reset": "2026-09-21T14:14:00Z"},
    ),
    Limit(
        "milliseconds",
        "anthropic",
        40,
        ACCOUNT,
        {f"{UNIFIED}-5h-status": "rejected", f"{UNIFIED}-5h-reset": "1790000040000"},
    ),
    Limit(
        "reset that cannot be read",
        "anthropic",
        None,
        ACCOUNT,
        {f"{UNIFIED}-5h-status": "rejected", f"{UNIFIED}-5h-reset": "soon"},
    ),
    Limit(
        "a control character",
        "anthropic",
        None,
        ACCOUNT,
        {f"{UNIFIED}-5h-status": "rejected", f"{UNIFIED}-5h-reset": at(9) + "\x1f"},
    ),
    Limit("past", "anthropic", None, ACCOUNT, {f"{UNIFIED}-status": "rejected", f"{UNIFIED}-reset": at(-5)}),
    Limit("long past", "anthropic", None, ACCOUNT, claude(_5h=("rejected", 1, -500))),
    Limit(
        "tokens a minute",
        "anthropic",
        20,
        MODEL,
        {
            "anthropic-ratelimit-requests-remaining": "9",
            "anthropic-ratelimit-requests-reset": at(900),
            "anthropic-ratelimit-output-tokens-remaining": "0",
            "anthropic-ratelimit-output-tokens-reset": at(20),
        },
        reason="rate_limit",
    ),
    Limit(
        "credit",
        "anthropic",
        600,
        ACCOUNT,
        {},
        claude_error("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        400,
    ),
    Limit(
        "extra usage",
        "anthropic",
        600,
        ACCOUNT,
        {},
        claude_error("invalid_request_error", "You are out of extra usage."),
        400,
    ),
    Limit(
        "organisation",
        "anthropic",
        600,
        ACCOUNT,
        {},
        claude_error("invalid_request_error", "This organization has been disabled."),
        400,
    ),
    Limit(
        "usage limits with a date",
        "anthropic",
        35_200,
        ACCOUNT,
        {},
        claude_error(
            "invalid_request_error",
            "You have reached your specified API usage limits. You will regain access on 2026-09-22 at 00:00 UTC.",
        ),
        400,
    ),
]

CHATGPT = [
    Limit("resets_in_seconds", "openai", 1_234, ACCOUNT, {}, chatgpt(resets_in_seconds=1_234)),
    Limit("resets_at", "openai", 5_000, ACCOUNT, {}, chatgpt(resets_at=int(WALL) + 5_000, plan_type="plus")),
    Limit("a code", "openai", 60, ACCOUNT, {}, {"error": {"code": "usage_limit_reached", "resets_in_seconds": 60}}),
    Limit(
        "primary used up",
        "openai",
        7_000,
        ACCOUNT,
        codex(primary_used_percent="100", primary_window_minutes="300", primary_reset_at=at(7_000)),
        chatgpt(),
    ),
    Limit(
        "in milliseconds",
        "openai",
        7_000,
        ACCOUNT,
        codex(
            primary_used_percent="100.0",
            primary_window_minutes="300",
            primary_reset_at=str(int(WALL * 1000) + 7_000_000),
        ),
        chatgpt(),
    ),
    Limit(
        "after seconds",
        "openai",
        77,
        ACCOUNT,
        codex(primary_used_percent="100", primary_window_minutes="300", primary_reset_after_seconds="77"),
        chatgpt(),
    ),
    Limit(
        "secondary used up",
        "openai",
        90_000,
        ACCOUNT,
        codex(
            primary_used_percent="3",
            primary_window_minutes="300",
            primary_reset_at=at(60),
            secondary_used_percent="100",
            secondary_window_minutes="10080",
            secondary_reset_at=at(90_000),
        ),
        chatgpt(),
    ),
    Limit(
        "an empty family beside",
        "openai",
        500,
        ACCOUNT,
        {
            **codex(primary_used_percent="100", primary_window_minutes="300", primary_reset_at=at(500)),
            **codex(other_primary_used_percent="0", other_primary_window_minutes="0", other_primary_reset_at="0"),
        },
        chatgpt(),
    ),
    Limit(
        "the active family",
        "openai",
        800,
        ACCOUNT,
        {
            **codex(
                bengalfox_primary_used_percent="100",
                bengalfox_primary_window_minutes="300",
                bengalfox_primary_reset_at=at(800),
            ),
            "x-codex-active-limit": "bengalfox",
            "x-codex-rate-limit-reached-type": "primary",
        },
        chatgpt(),
    ),
    Limit(
        "the active family beside the plan's own",
        "openai",
        800,
        MODEL,
        {
            **codex(primary_used_percent="20", primary_window_minutes="300", primary_reset_at=at(60)),
            **codex(bengalfox_primary_used_percent="100", bengalfox_primary_reset_at=at(800)),
            "x-codex-active-limit": "bengalfox",
        },
        chatgpt(),
    ),
    Limit(
        "a burst while another family's is used up, of ChatGPT's",
        "openai",
        None,
        MODEL,
        {
            **codex(primary_used_percent="20", primary_window_minutes="300", primary_reset_at=at(60)),
            **codex(bengalfox_primary_used_percent="100", bengalfox_primary_reset_at=at(80_000)),
        },
        {"error": {"type": "rate_limit_exceeded", "message": "Slow down."}},
        reason="rate_limit",
    ),
    Limit(
        "a time that is over by our clock",
        "openai",
        77,
        ACCOUNT,
        codex(primary_used_percent="100", primary_reset_at=at(-9), primary_reset_after_seconds="77"),
        chatgpt(),
    ),
    Limit("resets_at that is over", "openai", 600, ACCOUNT, {}, chatgpt(resets_at=int(WALL) - 50)),
    Limit("a plan without it", "openai", 600, ACCOUNT, {}, {"error": {"type": "usage_not_included"}}),
    Limit("credits", "openai", 600, ACCOUNT, {}, {"error": {"code": "workspace_owner_credits_depleted"}}),
    Limit("resets_at in milliseconds", "openai", 60, ACCOUNT, {}, chatgpt(resets_at=int(WALL * 1000) + 60_000)),
    Limit(
        "percent that is none",
        "openai",
        600,
        ACCOUNT,
        codex(primary_used_percent="many", primary_window_minutes="300", primary_reset_at=at(800)),
        chatgpt(),
    ),
    Limit(
        "out of credit",
        "openai",
        600,
        ACCOUNT,
        {},
        {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}},
    ),
    Limit(
        "requests a minute",
        "openai",
        6.5,
        MODEL,
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "6.5s",
            "x-ratelimit-reset-tokens": "24h",
        },
        reason="rate_limit",
    ),
    Limit(
        "in words",
        "openai",
        432.5,
        MODEL,
        {},
        {"error": {"message": "Rate limit reached. Please try again in 7m12.5s."}},
        reason="rate_limit",
    ),
    Limit(
        "both resets told",
        "openai",
        40,
        MODEL,
        {
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-reset-requests": "24h0m0s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "40s",
        },
        reason="rate_limit",
    ),
]

OTHERS = [
    Limit("RetryInfo", "gemini", 50, MODEL, {}, google(retryDelay="50s"), reason="rate_limit"),
    Limit("quota reset", "gemini", 8_000.5, MODEL, {}, google(quotaResetDelay="2h13m20.5s"), reason="rate_limit"),
    Limit(
        "the longer of two",
        "gemini",
        100,
        MODEL,
        {},
        google(retryDelay="50s", quotaResetDelay="100s"),
        reason="rate_limit",
    ),
    Limit("30s", "openai", 30, MODEL, {"retry-after": "30s"}, reason="rate_limit"),
    Limit("1m30s", "openai", 90, MODEL, {"retry-after": "1m30s"}, reason="rate_limit"),
    Limit("a time in seconds", "openai", 40, MODEL, {"retry-after": at(40)}, reason="rate_limit"),
    Limit("a time in milliseconds", "openai", 40, MODEL, {"retry-after": "1790000040000"}, reason="rate_limit"),
    Limit("a date", "openai", 40, MODEL, {"retry-after": "Mon, 21 Sep 2026 14:14:00 GMT"}, reason="rate_limit"),
    Limit("ISO 8601", "openai", 40, MODEL, {"retry-after": "2026-09-21T14:14:00Z"}, reason="rate_limit"),
    Limit("ms", "openai", 1.5, MODEL, {"retry-after-ms": "1500"}, reason="rate_limit"),
    Limit("IETF", "openai", 30, MODEL, {"ratelimit": '"x";r=0;t=30'}, reason="rate_limit"),
    Limit(
        "by size",
        "openai",
        30,
        MODEL,
        {"x-ratelimitbysize-remaining-minute": "0", "x-ratelimitbysize-reset-minute": "30"},
        reason="rate_limit",
    ),
    Limit("an unknown form", "openai", None, MODEL, {"retry-after": "in a while"}, reason="rate_limit"),
    Limit("402", "openai", 600, ACCOUNT, {}, {"error": {"message": "Insufficient balance"}}, 402),
]

LIMITS = [*ANTHROPIC, *CHATGPT, *OTHERS]
OPERATIONS = {"anthropic": "messages", "openai": "responses", "gemini": "generateContent"}


def judged(told: Limit) -> Any:
    dialect = DIALECTS[told.dialect]
    operation = OPERATIONS[told.dialect]
    call = Call(told.dialect, operation, told.model, stream=False)
    body = claude_error() if told.body is None and told.dialect == "anthropic" else told.body
    watch = Watch(
        dialect,
        call,
        own_provider=True,
        own_credential=True,
        status=told.status,
        fields=tuple((k.encode(), v.encode("latin-1")) for k, v in told.headers.items()),
        wall_now=WALL,
    )
    watch.feed(b"" if body is None else json.dumps(body).encode())
    return watch.judge_end()


def test_there_are_enough_of_them() -> None:
    assert len(LIMITS) >= 40
    assert len({told.name for told in LIMITS}) == len(LIMITS)


@pytest.mark.parametrize("told", LIMITS, ids=lambda told: told.name)
def test_how_long_and_of_what(told: Limit) -> None:
    outcome = judged(told)
    assert outcome.kind is Kind.COOLDOWN
    if told.reason is not None:
        assert outcome.reason == told.reason
    assert outcome.cooldown_seconds == (None if told.seconds is None else pytest.approx(told.seconds, abs=0.6))
    scope = ACCOUNT if outcome.account else FAMILY if outcome.family else MODEL
    assert scope == told.scope


def test_a_request_that_is_longer_than_the_plan_pays_for_says_nothing_of_others() -> None:
    message = "Extra usage is required for long context requests."
    outcome = judged(Limit("", "anthropic", None, "", claude("rejected"), claude_error(message=message)))
    assert (outcome.kind, outcome.reason, outcome.size_limited) == (Kind.NEUTRAL, "size_limited", True)


@pytest.mark.parametrize("told", LIMITS, ids=lambda told: told.name)
def test_another_app_s_key_is_not_limited(told: Limit) -> None:
    cooldowns = Cooldowns()
    outcome = judged(told)
    operation = OPERATIONS[told.dialect]
    cooldowns.start(Subject("p", KEY, operation, told.model), outcome, 0.0)
    if told.seconds:
        assert cooldowns.find(Subject("p", KEY, operation, told.model), 0.0) is not None
    assert cooldowns.find(Subject("p", "another", operation, told.model), 0.0) is None
    assert cooldowns.find(Subject("q", KEY, operation, told.model), 0.0) is None
    other = cooldowns.find(Subject("p", KEY, "other", "some-other-model"), 0.0)
    assert (other is not None) == (told.scope == ACCOUNT and told.seconds != 0)


def test_a_family_s_window_bars_its_models_and_no_others() -> None:
    cooldowns = Cooldowns()
    family = next(told for told in LIMITS if told.name == "a family's")
    cooldowns.start(Subject("p", KEY, "messages", "claude-opus-4-5"), judged(family), 0.0)
    barred = {
        model: cooldowns.find(Subject("p", KEY, operation, model), 10.0)
        for operation in ("messages", "messages/count_tokens")
        for model in ("claude-opus-4-1", "claude-sonnet-4-5", "Claude-Opus-5")
    }
    assert {model: cooling is not None for model, cooling in barred.items()} == {
        "claude-opus-4-1": True,
        "claude-sonnet-4-5": False,
        "Claude-Opus-5": True,
    }
    assert barred["claude-opus-4-1"] is not None
    assert barred["claude-opus-4-1"].seconds == pytest.approx(7_190)


# --- windows in good answers


def test_windows_that_a_good_answer_tells_of() -> None:
    headers = {
        **claude("allowed_warning", _5h=("allowed_warning", 0.91, 900), _7d=("allowed", 0.4, 400_000)),
        f"{UNIFIED}-representative-claim": "five_hour",
        f"{UNIFIED}-fallback-percentage": "0.5",
        **codex(primary_used_percent="12.5", primary_window_minutes="300", primary_reset_after_seconds="60"),
    }
    assert windows(headers, WALL) == (
        Window("5h", "", Standing.WARNING, 0.91, 900),
        Window("7d", "", Standing.ALLOWED, 0.4, 400_000),
        Window("primary", "", Standing.ALLOWED, 0.125, 60),
    )
    assert limit(headers, WALL, None) is None


def test_beyond_its_window_a_plan_that_is_billed_goes_on() -> None:
    headers = {**claude("allowed", _5h=("rejected", 1.2, 900)), f"{UNIFIED}-overage-status": "allowed"}
    assert [w.standing for w in windows(headers, WALL)] == [Standing.ALLOWED]
    assert limit(headers, WALL, None) is None


@pytest.mark.parametrize(
    ("told", "model", "found"),
    [
        (Window("5h", "", Standing.ALLOWED, 0.97, 60), "m", None),
        (Window("5h", "", Standing.ALLOWED, 0.98, 60), "m", "5h"),
        (Window("5h", "", Standing.WARNING, 0.5, 60), "m", "5h"),
        (Window("5h", "", Standing.REJECTED, 1, 60), "m", "5h"),
        (Window("5h", "", Standing.REJECTED, 1, None), "m", None),
        (Window("7d_opus", "opus", Standing.WARNING, 0.9, 60), "claude-sonnet-4", None),
        (Window("7d_opus", "opus", Standing.WARNING, 0.9, 60), "claude-opus-4", "7d_opus"),
        (Window("7d_opus", "opus", Standing.WARNING, 0.9, 60), None, None),
    ],
)
def test_which_windows_are_nearly_used_up(told: Window, model: str | None, found: str | None) -> None:
    plans = Plans()
    plans.told(Subject("p", KEY, "messages", model), (told,), 0.0)
    window = plans.nearly_used_up(Subject("p", KEY, "messages", model), 10.0)
    assert (None if window is None else window.name) == found
    assert plans.nearly_used_up(Subject("p", "another", "messages", model), 10.0) is None
    assert plans.nearly_used_up(Subject("p", KEY, "messages", model), 61.0) is None


def test_what_is_told_of_them_ages() -> None:
    plans = Plans()
    plans.told(Subject("p", KEY), (Window("5h", "", Standing.ALLOWED, 0.5, 60),), 0.0)
    assert plans.of("p", 20.0) == [(Window("5h", "", Standing.ALLOWED, 0.5, 40.0),)]
    assert plans.of("p", 60.0) == []
    plans.keep(set())
    assert plans.of("p", 20.0) == []


@pytest.mark.parametrize(
    ("status", "billed", "standing"),
    [
        ("allowed", "", Standing.ALLOWED),
        ("allowed_warning", "", Standing.WARNING),
        ("rejected", "", Standing.REJECTED),
        (" Rejected ", "rejected", Standing.REJECTED),
        ("allowed_warning", " Allowed_warning", Standing.ALLOWED),
        ("rejected", "allowed", Standing.ALLOWED),
        ("new word", "", Standing.ALLOWED),
    ],
)
def test_what_claude_says_of_a_window(status: str, billed: str, standing: Standing) -> None:
    """Where what goes beyond it is billed, it stands in nobody's way."""
    headers = {f"{UNIFIED}-5h-status": status, f"{UNIFIED}-overage-status": billed, f"{UNIFIED}-5hx-status": "rejected"}
    assert windows(headers, WALL) == (Window("5h", "", standing, None, None),)


@pytest.mark.parametrize(
    ("told", "window"),
    [
        ({}, None),
        ({"used_percent": "0", "window_minutes": "0"}, None),
        ({"used_percent": "0"}, None),
        ({"used_percent": "0", "window_minutes": "300"}, (Standing.ALLOWED, 0.0, None)),
        ({"window_minutes": "300"}, (Standing.ALLOWED, None, None)),
        ({"used_percent": "1"}, (Standing.ALLOWED, 0.01, None)),
        ({"used_percent": "99.5"}, (Standing.ALLOWED, 0.995, None)),
        ({"used_percent": "100"}, (Standing.REJECTED, 1.0, None)),
        ({"used_percent": "9000000"}, (Standing.REJECTED, 1_000.0, None)),
        (
            {"used_percent": "1", "reset_at": at(50), "reset_after_seconds": "9"},
            (Standing.ALLOWED, 0.01, 50.0),
        ),
        (
            {"used_percent": "1", "reset_at": "soon", "reset_after_seconds": "9"},
            (Standing.ALLOWED, 0.01, 9.0),
        ),
    ],
)
def test_what_codex_says_of_a_window(told: dict[str, str], window: tuple[Any, ...] | None) -> None:
    headers = codex(**{f"secondary_{name}": value for name, value in told.items()})
    assert windows(headers, WALL) == (() if window is None else (Window("secondary", "", *window),))


@pytest.mark.parametrize(
    ("active", "family"), [("", "gpt_fox"), ("gpt_fox", ""), (" GPT-FOX ", ""), ("codex", "gpt_fox")]
)
def test_whose_window_it_is(active: str, family: str) -> None:
    """A family's, but for that which is named as the plan's."""
    headers = {"x-codex-gpt_fox-primary-used-percent": "100", "x-codex-active-limit": active}
    assert windows(headers, WALL) == (Window("gpt_fox-primary", family, Standing.REJECTED, 1.0, None),)
    plan = {"x-codex-codex-primary-used-percent": "100"}
    assert windows(plan, WALL) == (Window("codex-primary", "", Standing.REJECTED, 1.0, None),)


def test_so_many_windows_are_read() -> None:
    headers = {f"{UNIFIED}-{hours}h-status": "allowed" for hours in range(1, 18)}
    assert [w.name for w in windows(headers, WALL)] == [f"{hours}h" for hours in range(1, 17)]


def test_of_several_windows_that_which_begins_anew_last_is_told() -> None:
    told = (
        Window("5h", "", Standing.WARNING, 0.9, 60),
        Window("7d", "", Standing.WARNING, 0.9, 600),
        Window("30d", "", Standing.ALLOWED, 0.5, 6_000),
        Window("1d", "", Standing.WARNING, 0.9, 90),
    )
    plans = Plans()
    plans.told(Subject("p", KEY, "messages", "m"), told, 0.0)
    plans.told(Subject("p", KEY, "messages", "m"), (), 1.0)
    found = plans.nearly_used_up(Subject("p", KEY, "other", "n"), 100.0)
    assert found == Window("7d", "", Standing.WARNING, 0.9, 500)
