"""The windows of a plan, as a vendor's answers tell them: how much of each is used, and when it begins anew.

Pure: no mitmproxy, no clock. Headers come by lower-case name; `wall_now` is Unix time in seconds. The forms are those
of Claude's plans (`anthropic-ratelimit-unified-*`) and of ChatGPT's (`x-codex-*`), as public clients read them (Claude
Code, Codex, November 2026); neither vendor documents them. A field may be missing, late, or new.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidestep.breaker.numbers import decimal
from sidestep.breaker.ratelimits import point_in_time

MAX_WINDOWS = 16
STANDING_LEVELS = 1_000_000
NEARLY = 0.98
"""The share from which on a window counts as nearly used up."""

SAME_SECONDS = 60.0
"""Two ends of a window that are no further apart are one, as two clocks have it."""

_UNIFIED = "anthropic-ratelimit-unified"
_CLAUDE = re.compile(rf"{_UNIFIED}-(\d{{1,3}}[mhdw](?:_([a-z0-9_.]{{1,30}}))?)-(status|utilization|reset)")
_CODEX = re.compile(
    r"x-codex-(?:([a-z0-9_.-]{1,40})-)?(primary|secondary)-(used-percent|window-minutes|reset-at|reset-after-seconds)"
)


class Standing(enum.StrEnum):
    """What the vendor says of a window."""

    ALLOWED = "allowed"
    WARNING = "warning"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a plan."""

    name: str
    """As the vendor calls it: `5h`, `7d_opus`, `primary`."""
    family: str
    """The word by which its models are known, empty where it is all models'."""
    standing: Standing
    used: float | None
    """The share that is used up: 0 to 1, or more."""
    resets_in: float | None
    """Seconds until it begins anew."""

    @property
    def level(self) -> int:
        """How far it is used up, in whole percents; what the vendor says of it counts for more."""
        used = math.floor((self.used or 0.0) * 100 + 1e-9)
        return list(Standing).index(self.standing) * STANDING_LEVELS + min(max(0, used), STANDING_LEVELS - 1)

    @property
    def is_nearly_used_up(self) -> bool:
        return self.standing is not Standing.ALLOWED or (self.used is not None and self.used >= NEARLY)


@dataclass(frozen=True, slots=True)
class PlanLimit:
    """A plan that is used up: seconds until its windows begin anew (None: not told), and for which models (empty: for
    all)."""

    seconds: float | None
    family: str = ""


def is_news(level: int, ends: float, known_level: int, known_end: float) -> bool:
    """Whether what is said of a window is newer than what is known of it: within one window use only grows, and a
    window that ends later is a later one. Ends are seconds of one clock."""
    if abs(ends - known_end) <= SAME_SECONDS:
        return level > known_level
    return ends > known_end


def windows(headers: Mapping[str, str], wall_now: float) -> tuple[Window, ...]:
    """The windows that an answer tells of."""
    return (*_claude(headers, wall_now), *_codex(headers, wall_now))[:MAX_WINDOWS]


def limit(headers: Mapping[str, str], wall_now: float, model: str | None, *, used_up: bool = False) -> PlanLimit | None:
    """The plan's limit that a refusal of a call for this model speaks of; None where it is not a plan's: a burst, while
    the plan allows more. `used_up`: the error itself says that it is a plan's.

    Of several windows that are used up the latest counts; one that is not, or that is another family's, says nothing. A
    time that is over, by the clock of this machine, is none: the refusal came after it.
    """
    refused = headers.get(f"{_UNIFIED}-status", "").strip().lower() == "rejected" and not _is_billed(headers)
    told = point_in_time(headers.get(f"{_UNIFIED}-reset"), wall_now) if refused else None
    rejected = [w for w in windows(headers, wall_now) if w.standing is Standing.REJECTED]
    found = [w for w in rejected if bars(w.family, model)]
    # By their names not all families' models are known: it is theirs where the vendor says that a plan refuses.
    found = found or [w for w in rejected if used_up or _speaks(w.family, headers)]
    if for_all := [w for w in found if not w.family]:
        found = for_all
    if found:
        times = [w.resets_in for w in found if w.resets_in]
        return PlanLimit(max(times, default=told) or None, found[0].family)
    if refused:
        # `five_hour`, `seven_day`, `seven_day_opus`.
        family = headers.get(f"{_UNIFIED}-representative-claim", "").strip().lower().partition("_day_")[2]
        return PlanLimit(told or None, family)
    return None


def _speaks(family: str, headers: Mapping[str, str]) -> bool:
    """Whether headers name the windows of this family as those that refuse."""
    active = headers.get("x-codex-active-limit", "").strip().lower().replace("_", "-")
    if active:
        return family.replace("_", "-") == active
    return headers.get(f"{_UNIFIED}-status", "").strip().lower() == "rejected"


def nearly_used_up(told: tuple[Window, ...], model: str | None) -> Window | None:
    """The window that will be used up soon for this model: of several that which begins anew last."""
    found = [w for w in told if w.is_nearly_used_up and w.resets_in is not None and bars(w.family, model)]
    return max(found, key=lambda w: w.resets_in or 0.0, default=None)


def bars(family: str, model: str | None) -> bool:
    """Whether a limit of this family is one of this model too."""
    return not family or (model is not None and family in model.lower())


def _is_billed(headers: Mapping[str, str]) -> bool:
    """Calls go on beyond a window, and are billed: it refuses nothing."""
    return headers.get(f"{_UNIFIED}-overage-status", "").strip().lower().startswith("allowed")


def _claude(headers: Mapping[str, str], wall_now: float) -> list[Window]:
    told: dict[str, dict[str, str]] = {}
    families: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith(f"{_UNIFIED}-") and (found := _CLAUDE.fullmatch(name)) is not None:
            told.setdefault(found[1], {})[found[3]] = value
            families[found[1]] = found[2] or ""
    billed = _is_billed(headers)
    made = []
    for window, fields in told.items():
        status = fields.get("status", "").strip().lower()
        standing = Standing.ALLOWED
        if status == "rejected" and not billed:
            standing = Standing.REJECTED
        elif status in ("rejected", "allowed_warning"):
            standing = Standing.WARNING if not billed else Standing.ALLOWED
        resets_in = point_in_time(fields.get("reset"), wall_now)
        made.append(Window(window, families[window], standing, _share(fields.get("utilization"), 1.0), resets_in))
    return made


def _codex(headers: Mapping[str, str], wall_now: float) -> list[Window]:
    told: dict[tuple[str, str], dict[str, str]] = {}
    for name, value in headers.items():
        if name.startswith("x-codex-") and (found := _CODEX.fullmatch(name)) is not None:
            told.setdefault((found[1] or "", found[2]), {})[found[3]] = value
    shares = {key: _share(fields.get("used-percent"), 100.0) for key, fields in told.items()}
    # All zero: there is no such window.
    told = {k: fields for k, fields in told.items() if shares[k] or _share(fields.get("window-minutes"), 1.0)}
    # The family of a limit that is named as the one that holds is the plan itself, where nothing else is.
    plans = {"", "codex"}
    if not any(family in plans for family, _ in told):
        plans.add(headers.get("x-codex-active-limit", "").strip().lower().replace("_", "-"))
    made = []
    for (family, which), fields in told.items():
        used = shares[family, which]
        # By a clock of this machine that is ahead the time may be over.
        resets_in = point_in_time(fields.get("reset-at"), wall_now)
        if not resets_in:
            resets_in = point_in_time(fields.get("reset-after-seconds"), wall_now) or resets_in
        standing = Standing.REJECTED if used is not None and used >= 1.0 else Standing.ALLOWED
        bound = "" if family.replace("_", "-") in plans else family
        made.append(Window(f"{family}-{which}" if family else which, bound, standing, used, resets_in))
    return made


def _share(text: str | None, whole: float) -> float | None:
    value = decimal(text)
    return None if value is None else min(value / whole, 1_000.0)
