"""This process as one of a group: tells the others what its engine finds out, and the engine what they have found.

Nothing here waits: what is said goes into the carrier's queue, and an answer is taken up when it comes. A bug here is
logged once, and changes nothing for a call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from sidestep.breaker.circuit import Circuit, State
from sidestep.breaker.cooldown import Cooling, Source, Subject
from sidestep.breaker.outcomes import Result
from sidestep.breaker.windows import MAX_WINDOWS, SAME_SECONDS, STANDING_LEVELS, Standing, Window
from sidestep.config.settings import MODES, FleetSettings, Settings
from sidestep.credentials import share_fingerprints
from sidestep.dialects.base import Conversation
from sidestep.dialects.conversations import share_digests
from sidestep.fleet.carrier import Carrier
from sidestep.fleet.claims import ANSWER_SECONDS, LEASE_SECONDS, LOOK_AGAIN_SECONDS, Claim, Claims, Release
from sidestep.fleet.ledger import GRAIN_MS, PULLED_AT_ONCE, Ledger, Message, News, is_suspect
from sidestep.fleet.names import Names, key_of
from sidestep.fleet.scripts import Script
from sidestep.routing.engine import Engine
from sidestep.routing.serving import overall, serving
from sidestep.routing.sharing import Question
from sidestep.routing.sticking import Scope, Stay

PULL_SECONDS = 1.0
HERE_SECONDS = 5.0
"""So often it is told that this process is there."""
GONE_SECONDS = 15.0
"""Who has not said so for so long is not."""
MEMBERS = 64
"""That are shown."""
NAME_BYTES = 3
CLOSED_SECONDS = 60.0
"""How long it is told that a circuit has closed."""
LONGEST_MS = 86_400_000
LONGEST_WINDOW_MS = 35 * 86_400_000
STAY_SECONDS = 0.02
"""How long a call waits for where its conversation stays: what is lost is a prompt cache."""
TOLD_STAY_SECONDS = 60.0
"""How long that counts; the answer to this call begins it anew."""
ISSUED_MS = 86_400_000
MAX_IDS = 64
MAX_SUBJECTS = 5_000
FORESEEN_GRAIN = 0.1
"""A limit that is foreseen is told again when its end has moved on by this share of what is left."""
_HELD = {"forced_open": State.FORCED_OPEN, "disabled": State.DISABLED, "auto": None}
_AGE = re.compile(r"[0-9]{1,12}")
_STAY = re.compile(
    r"([0-9a-f]{1,64}) ([0-9a-f]{1,64}) ([0-9]{1,9}) ((?:[0-9a-f]{2}){0,64}) ([0-9]{1,15}) ([0-9]{1,15})"
)
_VERSION = re.compile(r"[0-9]{1,15}")
_REASON = re.compile(r"[a-z0-9_]{1,40}")
_FAMILY = re.compile(r"[a-z0-9._-]{1,40}")
_WINDOW = re.compile(r"[a-z0-9._-]{1,60}")
_PERCENT = re.compile(r"[0-9]{1,6}")
_MEMBER = re.compile(r"[0-9a-f]{1,16}(?:/\d{1,3})?")
_HERE = re.compile(r"(ok|degraded|unhealthy) (\d{1,15}) (\d{1,15})")


SHARED = {"open": "open circuit", "limit": "limit", "plan": "plan window", "hold": "hold"}
"""What is told of how much is shared, by the first word of an entry."""


class _Bond:
    """One circuit's listener. State: what it is of, in the store and here."""

    __slots__ = ("entry", "member", "model", "provider")

    def __init__(self, member: Member, entry: str, provider: str, model: str | None) -> None:
        self.member = member
        self.entry = entry
        self.provider = provider
        self.model = model

    @property
    def words(self) -> str:
        return self.provider if self.model is None else f"{self.provider} ({self.model})"

    def turned(self, circuit: Circuit, now: float) -> None:
        self.member.turned(self, circuit, now)

    def probing(self, circuit: Circuit, now: float) -> str:
        return self.member.claims.take(self.entry, now)

    def probed(self, circuit: Circuit, claim: str) -> None:
        self.member.probed(claim)


class Member:
    """State: the names of the group, what was heard and said, the claims of probes, the connection; the engine's
    circuits by entry, the subjects of limits by entry, and the windows of accounts that were not asked for here; who
    else is there, and when it was said last that this process is; openings that are not told because this process's own
    network may be down; until when other processes were said to probe."""

    def __init__(
        self,
        settings: FleetSettings,
        clock: Callable[[], float],
        tell: Callable[[str, str, int], None],
        bug: Callable[[str, Exception], None],
        name: str = "",
    ) -> None:
        """`tell`: told of what kind news is, in words, and the level of the log. `bug`: told of bugs of ours. `name`:
        by which others show this process: no host's; by default a random one."""
        self.settings = settings
        self.name = name or secrets.token_hex(NAME_BYTES)
        self._others: dict[str, str] = {}
        self._here_at = -math.inf
        self._clock = clock
        self._bug = bug
        me = f"{os.getpid()}-{secrets.token_hex(4)}"
        secret = settings.secret.reveal()
        self.names = Names(settings.group, secret)
        share_fingerprints(key_of(secret, "fingerprints"))
        share_digests(key_of(secret, "conversations"))
        self.ledger = Ledger(me)
        self.claims = Claims(me)
        self.carrier = Carrier(settings.url.reveal(), clock, tell, bug)
        self._tell = tell
        self._epoch = secrets.token_hex(8)
        self._engine: Engine | None = None
        self._circuits: WeakValueDictionary[str, Circuit] = WeakValueDictionary()
        self._subjects: dict[str, Subject] = {}
        self._asked: set[Subject] = set()
        self._plans: dict[str, dict[str, None]] = {}
        self._hands: dict[str, str] = {}
        self._withheld: set[str] = set()
        self._probed_until = -math.inf
        self._stays_until = -math.inf
        self._pulled_at: float | None = None
        self._pulls = False
        self._pulls_again = False
        self._tasks: list[asyncio.Task[None]] = []

    # --- its life

    def join(self, engine: Engine) -> None:
        """Share what this engine knows; called again where its settings have changed."""
        self._engine = engine
        engine.sharing = self
        self.learn(engine.settings)

    def learn(self, settings: Settings) -> None:
        self.names.learn(settings)
        for entry, circuit in list(self._circuits.items()):
            if isinstance(bond := circuit.listener, _Bond):
                bond.entry = self.names.circuit(bond.provider, bond.model)
                if bond.entry != entry:
                    del self._circuits[entry]
                    self._circuits[bond.entry] = circuit
        self._hands = {self.names.hand(name): name for name in settings.by_name}
        self._forget_subjects()

    def _forget_subjects(self) -> None:
        self._asked.clear()
        self._subjects.clear()

    def start(self) -> None:
        """In the loop that serves."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.carrier.run()),
            loop.create_task(self.carrier.listen(self.names.channel, self._hinted)),
            loop.create_task(self._tick()),
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._bug("fleet", error)

    async def _tick(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as e:
                self._bug("fleet", e)
            await asyncio.sleep(PULL_SECONDS)

    def _turn(self) -> None:
        """Each second."""
        now = self._clock()
        self._pull()
        if self._here_at + HERE_SECONDS <= now:
            self._say_here(now)
        for each in self.claims.due(now):
            if isinstance(each, Claim):
                self._claim(each)
            else:
                self._release(each)
        if self._withheld and not self._is_suspect(now):
            for entry in self._withheld:
                if (circuit := self._circuits.get(entry)) is not None:
                    self._tell_open(entry, circuit, now)
            self._withheld.clear()
        if self._probed_until <= now and self._probed_until > -math.inf:
            self._probed_until = -math.inf
            self._wake()

    def _say_here(self, now: float) -> None:
        engine = self._engine
        if engine is None:
            return
        word = overall(serving(engine, route, now) for route in engine.settings.routes)
        failed = sum(count for (_, result), count in engine.requests_total.items() if result == Result.FAILED)
        told = f"{word} {engine.requests_total.total()} {failed}"

        def answered(answer: Any, sent: float) -> None:
            if not isinstance(answer, Exception):
                self._others = dict(zip(answer[::2], answer[1::2], strict=True))

        arguments: list[str | int] = [self.name, round(GONE_SECONDS * 1000), told, MEMBERS]
        if self.carrier.say(Script.HERE, self.names.members, arguments, answered):
            self._here_at = now

    def _members(self) -> list[dict[str, Any]]:
        """Those that were there when this process last said that it is; as they tell."""
        found = []
        for name, told in sorted(self._others.items()):
            if _MEMBER.fullmatch(name) and (words := _HERE.fullmatch(told)):
                found.append({"name": name, "status": words[1], "calls": int(words[2]), "failed": int(words[3])})
        return found

    @property
    def status(self) -> dict[str, Any]:
        """For `/health` and those who look."""
        now = self._clock()
        together = not self.carrier.alone and self._pulled_at is not None
        kinds = Counter(said.partition(" ")[0] for said in self.ledger.holding(now) if said != "hold auto")
        return {
            "state": "together" if together else "alone",
            "group": self.settings.group,
            "store": self.settings.place,
            "heard_seconds_ago": None if self._pulled_at is None else round(now - self._pulled_at, 1),
            "name": self.name,
            "members": self._members() if together else [],
            "shared": {word: count for kind, word in SHARED.items() if (count := kinds[kind])},
            "entries": self.ledger.shared,
            "sent": self.carrier.sent,
            "errors": self.carrier.errors,
            "refused": self.carrier.refused,
            "dropped": self.carrier.dropped,
        }

    # --- what the engine tells and asks

    def guards(self, provider: str, model: str | None, circuit: Circuit) -> None:
        try:
            entry = self.names.circuit(provider, model)
            self._circuits[entry] = circuit
            circuit.listener = _Bond(self, entry, provider, model)
            if (news := self.ledger.known(entry, self._clock())) is not None:
                self._apply(news)
        except Exception as e:
            self._bug("fleet", e)

    def claim(self, circuit: Circuit, now: float) -> float:
        if not isinstance(bond := circuit.listener, _Bond):
            return 0.0
        try:
            seconds, claim = self.claims.ask(bond.entry, now)
            if claim is not None and not self._claim(claim, circuit.settings.half_open_probes):
                self.claims.alone(bond.entry, now)
                return 0.0
            return seconds
        except Exception as e:
            self._bug("fleet", e)
            return 0.0

    def asked(self, subject: Subject, now: float) -> None:
        if subject in self._asked or self._engine is None:
            return
        try:
            if len(self._asked) >= MAX_SUBJECTS:
                self._forget_subjects()
            self._asked.add(subject)
            for each in self._engine.cooldowns.over(subject):
                entry = self.names.limit(each)
                self._subjects[entry] = each
                for window in self._plans.pop(entry, ()):
                    if (news := self.ledger.known(window, now)) is not None:
                        self._apply(news)
                if (news := self.ledger.known(entry, now)) is not None:
                    self._apply(news)
        except Exception as e:
            self._bug("fleet", e)

    def limited(self, subject: Subject, now: float) -> None:
        if self._engine is None or (met := self._engine.cooldowns.met(subject, now)) is None:
            return
        try:
            family = "" if subject.model is None or not subject.model.startswith("*") else subject.model.strip("*")
            payload = " ".join(["limit", str(int(met.source)), met.reason, family]).strip()
            # What is foreseen moves on with each answer.
            grain = met.seconds * FORESEEN_GRAIN if met.source is Source.FORESEEN else 0.0
            message = self.ledger.later(self.names.limit(subject), payload, now + met.seconds, grain)
            if message is not None:
                self._say(message, now)
        except Exception as e:
            self._bug("fleet", e)

    def planned(self, account: Subject, told: Sequence[Window], now: float) -> None:
        try:
            for window in told:
                if window.resets_in is None or window.resets_in < 1 or not _WINDOW.fullmatch(window.name):
                    continue
                used = "-" if window.used is None else str(window.level % STANDING_LEVELS)
                words = ["plan", str(window.level), self.names.limit(account), window.name, window.family or "-"]
                payload = " ".join([*words, str(window.standing), used])
                entry = self.names.window(account, window.name)
                message = self.ledger.window(entry, payload, window.level, now + window.resets_in)
                if message is not None:
                    self._say(message, now)
        except Exception as e:
            self._bug("fleet", e)

    def stays(self, scope: Scope, conversation: Conversation, stay: Stay) -> None:
        try:
            now = self._clock()
            seconds = stay.until - now
            provider, home = self.names.digest_of(stay.provider), self.names.digest_of(stay.home)
            if seconds < 1 or not provider or not home:
                return
            key = self.names.stay(*scope, conversation.answered or conversation.opening)
            value = f"{provider} {home} {stay.length} {stay.end.hex()} {stay.prompt} {stay.cached}"
            self.carrier.say("SET", [key], [value, "PX", round(seconds * 1000)])
            if self._stays_until < now + seconds / 2:  # others look only while any conversation stays anywhere
                self._stays_until = now + seconds
                message = self.ledger.later(self.names.stays, "stays", self._stays_until)
                if message is not None:
                    self._say(message, now)
        except Exception as e:
            self._bug("fleet", e)

    def any_stays(self, now: float) -> bool:
        return now < self._stays_until

    def where(self, scope: Scope, conversation: Conversation, now: float) -> Question | None:
        try:
            digests = [d for d in (conversation.answered, conversation.opening) if d is not None]
            question = Question(now + STAY_SECONDS)

            def answered(answer: Any, sent: float) -> None:
                question.answered = True
                if self._engine is not None and not isinstance(answer, Exception):
                    for digest, value in zip(digests, answer, strict=True):
                        if value is not None and (stay := self._stay_in(value)) is not None:
                            self._engine.conversations.told(scope, digest, stay)
                self._wake()

            keys = [self.names.stay(*scope, digest) for digest in digests]
            return question if self.carrier.say("MGET", keys, [], answered) else None
        except Exception as e:
            self._bug("fleet", e)
            return None

    def _stay_in(self, value: str) -> Stay | None:
        """None: it is with a provider that there is not here, or of a form that is not known here."""
        found = _STAY.fullmatch(value)
        if found is None:
            return None
        provider, home, length, end, prompt, cached = found.groups()
        name, at_home = self.names.name_of(provider), self.names.name_of(home)
        if name is None or at_home is None:
            return None
        until = self._clock() + TOLD_STAY_SECONDS
        return Stay(name, until, int(length), bytes.fromhex(end), at_home, int(prompt), int(cached))

    def issued(self, ids: Sequence[str], provider: str) -> None:
        try:
            if digest := self.names.digest_of(provider):
                for identifier in ids[:MAX_IDS]:
                    self.carrier.say("SET", [self.names.issued(identifier)], [digest, "PX", ISSUED_MS])
        except Exception as e:
            self._bug("fleet", e)

    def issuers(self, ids: Sequence[str], now: float) -> Question | None:
        try:
            asked = list(ids[:MAX_IDS])
            question = Question(now + ANSWER_SECONDS)

            def answered(answer: Any, sent: float) -> None:
                question.answered = True
                if self._engine is not None and not isinstance(answer, Exception):
                    providers = self._engine.settings.by_name
                    for identifier, value in zip(asked, answer, strict=True):
                        if (name := self.names.name_of(value or "")) is not None:
                            self._engine.told_issued([identifier], providers[name][0])
                self._wake()

            keys = [self.names.issued(identifier) for identifier in asked]
            return question if self.carrier.say("MGET", keys, [], answered) else None
        except Exception as e:
            self._bug("fleet", e)
            return None

    def held(self, provider: str, state: State | None, *, told: bool) -> None:
        word = "auto" if state is None else str(state)
        self._hand(self.names.hand(provider), f"hold {word}", told)

    def mode_set(self, mode: str, *, told: bool) -> None:
        self._hand(self.names.mode, f"mode {mode}", told)

    def _hand(self, entry: str, payload: str, told: bool) -> None:
        try:
            if told:
                self.ledger.overruled(entry)
            else:
                self._say(self.ledger.hand(entry, payload), self._clock())
        except Exception as e:
            self._bug("fleet", e)

    # --- what circuits tell

    def turned(self, bond: _Bond, circuit: Circuit, now: float) -> None:
        try:
            if circuit.own_opening is None:
                self._withheld.discard(bond.entry)
                self._say(self.ledger.tell(bond.entry, "closed", now + CLOSED_SECONDS), now)
            elif self._is_suspect(now):
                self._withhold(bond.entry, now)
            else:
                self._tell_open(bond.entry, circuit, now)
        except Exception as e:
            self._bug("fleet", e)

    def probed(self, token: str) -> None:
        if (release := self.claims.give_back(token)) is not None:
            self._release(release)

    def _tell_open(self, entry: str, circuit: Circuit, now: float) -> None:
        if (opening := circuit.own_opening) is not None and opening[1] > now:
            age = min(int((now - max(opening[0], -1e12)) * 1000), LONGEST_MS)
            self._say(self.ledger.tell(entry, f"open {age}", opening[1]), now)

    # --- whether it is this process's own network

    def _evidence(self) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        for circuit in self._circuits.values():
            if isinstance(bond := circuit.listener, _Bond):
                well, failed = found.get(bond.provider, (-math.inf, -math.inf))
                found[bond.provider] = max(well, circuit.well_at), max(failed, circuit.failed_at)
        return found

    def _is_suspect(self, now: float) -> bool:
        return is_suspect(self._evidence().values(), now)

    def _withhold(self, entry: str, now: float) -> None:
        """Tell nobody, and take back what was told since this process had its last answer."""
        self._withheld.add(entry)
        last_answer = max((well for well, _ in self._evidence().values()), default=-math.inf)
        for told, circuit in list(self._circuits.items()):
            opening = circuit.own_opening
            if told not in self._withheld and opening is not None and opening[0] > last_answer:
                self._withheld.add(told)
                self._say(self.ledger.tell(told, "closed", now + CLOSED_SECONDS), now)

    # --- saying

    def _say(self, message: Message, now: float) -> None:
        if not self.carrier.say(message.script, self.names.table, self._arguments(message, now), self._hear(message)):
            self.ledger.lost()

    def _arguments(self, m: Message, now: float) -> list[str | int]:
        longest = LONGEST_WINDOW_MS if m.script is Script.WINDOW else LONGEST_MS
        ms = 0 if m.until == math.inf else max(1, min(round((m.until - now) * 1000), longest))
        match m.script:
            case Script.PULL:
                return [m.epoch, m.base, PULLED_AT_ONCE]
            case Script.TELL:
                return [m.entry, m.base, ms, m.token, m.payload, self._epoch, self.names.channel, m.epoch]
            case Script.WINDOW:
                same = round(SAME_SECONDS * 1000)
                return [m.entry, ms, m.level, same, m.token, m.payload, self._epoch, self.names.channel]
            case Script.LATER:
                return [m.entry, ms, GRAIN_MS, m.token, m.payload, self._epoch, self.names.channel]
            case _:
                return [m.entry, m.token, m.payload, self._epoch, self.names.channel]

    def _hear(self, message: Message) -> Callable[[Any, float], None]:
        def heard(answer: Any, sent: float) -> None:
            if isinstance(answer, Exception):
                self.ledger.lost()
                return
            now = self._clock()
            news, again = self.ledger.answered(message, answer, sent, now)
            if again is not None:
                self._say(again, now)
            if news is not None:
                self._apply(news)

        return heard

    def _pull(self) -> None:
        """One at a time; whoever asks meanwhile gets another one after it."""
        self._pulls_again = self._pulls
        if not self._pulls:
            message = self.ledger.pull()
            arguments = self._arguments(message, 0.0)
            self._pulls = self.carrier.say(message.script, self.names.table, arguments, self._pulled)

    def _pulled(self, answer: Any, sent: float) -> None:
        self._pulls, again = False, self._pulls_again
        if isinstance(answer, Exception):
            return
        now = self._clock()
        if self._pulled_at is None:
            self._tell("fleet", f"fleet: group {self.settings.group} by {self.settings.place}", logging.INFO)
        self._pulled_at = now
        news, more = self.ledger.pulled(answer, sent, now)
        for each in news:
            self._apply(each)
        for message in self.ledger.retell(now):
            self._say(message, now)
        if more or again:
            self._pull()

    def _hinted(self, version: str) -> None:
        """There is something new."""
        if _VERSION.fullmatch(version) and int(version) > self.ledger.version:
            self._pull()

    # --- probes

    def _claim(self, claim: Claim, probes: int = 1) -> bool:
        def answered(answer: Any, sent: float) -> None:
            now = self._clock()
            granted = None if isinstance(answer, Exception) else bool(int(answer[0]))
            release = self.claims.answered(claim, granted=granted, now=now)
            if release is not None:
                self._release(release)
            circuit = self._circuits.get(claim.circuit)
            if granted is False and circuit is not None:
                seconds = min(int(answer[1]) / 1000, LOOK_AGAIN_SECONDS)
                circuit.told_probing(sent, seconds)
                self._probed_until = max(self._probed_until, sent + seconds)
            self._wake()

        keys, lease = [self.names.probes(claim.circuit)], round(LEASE_SECONDS * 1000)
        return self.carrier.say(Script.CLAIM, keys, [probes, lease, claim.token], answered)

    def _release(self, release: Release) -> None:
        self.carrier.say(Script.RELEASE, [self.names.probes(release.circuit)], [release.token])

    def _wake(self) -> None:
        if self._engine is not None:
            self._engine.tell_changed()

    # --- what others tell

    def _apply(self, news: News) -> None:
        try:
            self._take(news)
        except Exception as e:  # one piece of news must not cost the others
            self._bug("fleet", e)

    def _take(self, news: News) -> None:
        """News of a form that is not known here is of a later version of Sidestep: it is let be."""
        engine, now = self._engine, self._clock()
        if engine is None:
            return
        match news.payload.split(" "):
            case ["open", age] if _AGE.fullmatch(age):
                self._turn_circuit(news, now, int(age) / 1000)
            case ["closed"]:
                self._turn_circuit(news, now, None)
            case ["limit", source, reason, *family] if source in ("0", "1", "2") and _REASON.fullmatch(reason):
                self._limit(news, Cooling(news.seconds, reason, Source(int(source))), family, now)
            case ["hold", word] if word in _HELD and (name := self._hands.get(news.entry)) is not None:
                if engine.held.get(name) is not _HELD[word]:  # else another worker of this port has said so already
                    engine.hold(name, _HELD[word], told=True)
                    self._tell(f"hold of {name}", f"{name} is held {word} by hand in another process", logging.INFO)
            case ["plan", _, account, name, family, standing, used] if _WINDOW.fullmatch(name):
                self._plan(news, account, _window(name, family, standing, used, news.seconds), now)
            case ["stays"]:
                self._stays_until = max(self._stays_until, now + news.seconds)
            case ["mode", mode] if mode in MODES and news.entry == self.names.mode:
                if engine.mode != mode:
                    engine.set_mode(mode, told=True)
                    self._tell("mode", f"mode {mode}, by hand in another process", logging.INFO)

    def _turn_circuit(self, news: News, now: float, since_first_failure: float | None) -> None:
        circuit, engine = self._circuits.get(news.entry), self._engine
        if circuit is None or engine is None or not isinstance(bond := circuit.listener, _Bond):
            return
        before = circuit.state(now)
        if since_first_failure is None:
            turned, what = circuit.told_closed(now), "is asked again: another process has had an answer"
        else:
            turned = circuit.told_open(now, news.seconds, since_first_failure)
            seconds = math.ceil(circuit.snapshot(now).retry_after or 0.0)
            what = f"is not asked for {seconds} s: another process has found it failing"
        if turned:
            state = circuit.state(now)
            engine.journal.append((now, f"{bond.words}: {before} → {state} (heard)"))
            engine.tell(f"circuit of {bond.words}: {state}", f"{bond.words} {what}")
            engine.tell_changed()

    def _plan(self, news: News, account: str, window: Window | None, now: float) -> None:
        if self._engine is None or window is None:
            return
        if (subject := self._subjects.get(account)) is not None:
            self._engine.plans.heard(subject, window, now)
            return
        # An account that this process has not been asked for yet.
        if len(self._plans) >= MAX_SUBJECTS:
            self._plans.clear()
        windows = self._plans.setdefault(account, {})
        if len(windows) < MAX_WINDOWS:
            windows[news.entry] = None

    def _limit(self, news: News, told: Cooling, family: list[str], now: float) -> None:
        engine, subject = self._engine, self._subjects.get(news.entry)
        if engine is None:
            return
        if subject is not None:
            engine.cooldowns.told(subject, told, now)
        elif family and _FAMILY.fullmatch(family[0]):
            engine.cooldowns.knows_family(family[0])
            self._asked.clear()  # whose limits these are is looked for anew


def _window(name: str, family: str, standing: str, used: str, seconds: float) -> Window | None:
    """As another process tells it; None: it is of no form that is known here."""
    if standing not in list(Standing) or not (used == "-" or _PERCENT.fullmatch(used)):
        return None
    if family != "-" and not _FAMILY.fullmatch(family):
        return None
    share = None if used == "-" else int(used) / 100
    return Window(name, "" if family == "-" else family, Standing(standing), share, seconds)
