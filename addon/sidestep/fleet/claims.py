"""Who may probe: claims that are asked for, granted, used and given back.

Pure: time is an argument, messages are values. A claim that is not answered soon is granted as if there were no other
process, and given back where the answer comes later.
"""

from __future__ import annotations

from dataclasses import dataclass

ANSWER_SECONDS = 0.1
"""How long a call may wait for another process's word."""
UNUSED_SECONDS = 1.0
"""A claim that is granted and not used is given back: whoever asked may have left."""
LEASE_SECONDS = 10.0
"""Each probe that is out is claimed anew each second: that of a process that has died is over soon."""
LOOK_AGAIN_SECONDS = 1.0
"""A probe elsewhere may end without a word for others, as where its app has left: after so long it is claimed anew."""

ALONE = ""
"""The token of a probe that no other process was asked for."""


@dataclass(frozen=True, slots=True)
class Claim:
    """To be asked for: the probe of this circuit, under this token."""

    circuit: str
    token: str


@dataclass(frozen=True, slots=True)
class Release:
    """To be given back."""

    circuit: str
    token: str


@dataclass(frozen=True, slots=True)
class _Asked:
    token: str
    at: float

    @property
    def until(self) -> float:
        return self.at + ANSWER_SECONDS


@dataclass(frozen=True, slots=True)
class _Granted:
    """`at`: when it was asked for, from where its lease counts."""

    token: str
    at: float

    @property
    def until(self) -> float:
        return self.at + (LEASE_SECONDS if self.token else UNUSED_SECONDS)


class Claims:
    """State: claims asked for and granted, by the circuit's name; by their token those in use, and those without an
    answer, which a store that stood still may grant later."""

    def __init__(self, me: str) -> None:
        """`me`: what no other process is called."""
        self._me = me
        self._count = 0
        self._open: dict[str, _Asked | _Granted] = {}
        self._used: dict[str, str] = {}
        self._unanswered: dict[str, tuple[str, float]] = {}

    def ask(self, circuit: str, now: float) -> tuple[float, Claim | None]:
        """Seconds to wait for the answer, 0.0: go on; and what is to be asked for, if it was not yet."""
        match self._open.get(circuit):
            case _Asked(until=until) if now < until:
                return until - now, None
            case _Asked():
                self.alone(circuit, now)
                return 0.0, None
            case _Granted(until=until) if now < until:
                return 0.0, None
        self._count += 1
        token = f"{self._me}.{self._count}"
        self._open[circuit] = _Asked(token, now)
        return ANSWER_SECONDS, Claim(circuit, token)

    def alone(self, circuit: str, now: float) -> None:
        """Nobody can be asked."""
        self._open[circuit] = _Granted(ALONE, now)

    def answered(self, claim: Claim, *, granted: bool | None, now: float) -> Release | None:
        """The answer, None: there was none but an error. What is to be given back."""
        if granted is None and claim.token not in self._used:
            self._unanswered[claim.token] = claim.circuit, now + LEASE_SECONDS
        asked = self._open.get(claim.circuit)
        if not isinstance(asked, _Asked) or asked.token != claim.token:
            is_ours = claim.token in self._used or (asked is not None and asked.token == claim.token)
            return Release(claim.circuit, claim.token) if granted and not is_ours else None
        if granted is None:
            self.alone(claim.circuit, now)
        elif granted:
            self._open[claim.circuit] = _Granted(claim.token, asked.at)
        else:
            del self._open[claim.circuit]
        return None

    def take(self, circuit: str, now: float) -> str:
        """A probe goes out: its token, `ALONE` where it was not claimed."""
        granted = self._open.get(circuit)
        if not isinstance(granted, _Granted):
            return ALONE
        del self._open[circuit]
        if granted.token == ALONE or now >= granted.until:
            return ALONE
        self._used[granted.token] = circuit
        return granted.token

    def give_back(self, token: str) -> Release | None:
        """A probe is over."""
        circuit = self._used.pop(token, None)
        return None if circuit is None else Release(circuit, token)

    def due(self, now: float) -> list[Claim | Release]:
        """Each second: what is in use is claimed anew, what was granted and not used is given back, and what may have
        been granted."""
        found: list[Claim | Release] = [Claim(circuit, token) for token, circuit in self._used.items()]
        self._unanswered = {token: each for token, each in self._unanswered.items() if now < each[1]}
        found += [Release(circuit, token) for token, (circuit, _) in self._unanswered.items()]
        for circuit, state in tuple(self._open.items()):
            if now >= state.at + UNUSED_SECONDS:  # whoever asked has left
                del self._open[circuit]
                if state.token != ALONE and isinstance(state, _Granted):
                    found.append(Release(circuit, state.token))
        return found
