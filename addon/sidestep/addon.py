"""The mitmproxy addon: options, configuration and commands; connections and calls are parts of their own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import time
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mitmproxy import command, contentviews, ctx, exceptions, version
from mitmproxy.addonmanager import Loader

from sidestep import handover, probing, runtime, siblings, status, telemetry
from sidestep.breaker.outcomes import Kind
from sidestep.calls.shared import Core
from sidestep.config import local, reading, trusting
from sidestep.config.advice import in_the_clear, left_out
from sidestep.config.fleet import OWN_STORE
from sidestep.config.locating import Places, choose, places, stamps
from sidestep.config.problems import ConfigError
from sidestep.config.reading import describe
from sidestep.config.settings import FleetSettings, Secret, Settings
from sidestep.handover import DIRECT_HOSTS, UPSTREAM_AUTH
from sidestep.mitm import expected
from sidestep.mitm.aside import Aside
from sidestep.routing import prices
from sidestep.routing.engine import Engine

if TYPE_CHECKING:
    from sidestep.config.locating import Choice, Stamp
    from sidestep.config.trusting import Untrusted
    from sidestep.fleet.member import Member
    from sidestep.handover import Kept
    from sidestep.mitm.dispatch import Dispatch
    from sidestep.mitm.messages import QuickCheck, QuickLookup, QuickOptions
    from sidestep.mitm.terminal import Dress
    from sidestep.otel import Exporter

logger = logging.getLogger(__name__)

FORMS = ("text", "json")
TUNNEL_CHOICES = ("", "true", "false")
LOOK_SECONDS = 0.25
"""How often it is looked whether the configuration has changed; it is read when it has stayed the same as long."""
LOOK_AGAIN_SECONDS = 60.0
"""How long after servers of this machine were looked for they are at the earliest, where calls have met trouble."""
LOADING_LOOKS = (5.0, 10.0, 15.0, 30.0)
"""After how many seconds a server of this machine that is not ready yet is asked again."""


class Sidestep:
    """The addon. State: its parts, which are there once it is loaded; the configuration's file, the places where one is
    looked for with what was there when it was last read, what was refused of it, what was said of one that is not
    trusted; the settings as they were read, and the servers of this machine that were found to answer; on a mitmproxy
    that lacks what is needed, the part that stands aside."""

    def __init__(self) -> None:
        self.core = Core()
        self.addons: list[object] = []
        self._aside: Aside | None = None
        self.path: Path | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._places = Places()
        self._seen: dict[Path, Stamp | None] = {}
        self._refused = ""
        self._runtime: Path | None = None
        self._form = ""
        self._dressed: Dress | None = None
        self._passed_over = ""
        self._read: Settings | None = None
        self._found: dict[str, tuple[str, ...]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._troubles = 0
        """Attempts that had failed or met limits when servers of this machine were last looked for."""
        self._runs = False
        self._quickened: list[Dispatch | QuickCheck | QuickLookup | QuickOptions] = []
        self._exporter: Exporter | None = None
        self._fleet: Member | None = None

    @property
    def engine(self) -> Engine | None:
        """None until there is a configuration."""
        return self.core.engine

    def load(self, loader: Loader) -> None:
        _add_options(loader)
        if secret := os.environ.pop(UPSTREAM_AUTH, ""):
            # `sidestep run` stands in front of a proxy that wants a password: no command line shows it.
            ctx.options.update(upstream_auth=secret)
        direct_hosts = os.environ.pop(DIRECT_HOSTS, None)
        if lacking := expected.missing():
            self._aside = Aside(version.VERSION, lacking)
            self.addons = [self._aside]
            # An error would stop mitmproxy's start, and the app's traffic with it.
            logger.warning(f"sidestep: {self._aside}")
            return
        if not expected.is_supported(version.VERSION):
            logger.warning(
                f"sidestep: mitmproxy {version.VERSION} is outside the tested range ({expected.SUPPORTED}); all that "
                "Sidestep relies on is there, so it works on"
            )
        self._set_up(direct_hosts)

    def _set_up(self, direct_hosts: str | None) -> None:
        # Not above: they import what had to be looked for first.
        from sidestep.calls.hooks import Calls
        from sidestep.mitm.connections import Connections
        from sidestep.mitm.dispatch import Dispatch
        from sidestep.mitm.messages import QuickCheck, QuickLookup, QuickOptions
        from sidestep.view import LLM

        calls = Calls(self.core)
        calls.direct_hosts = direct_hosts
        dispatch = Dispatch(ctx.master.addons)
        self.addons = [Connections(self.core, calls, dispatch.at_once), calls]
        self._quickened = [dispatch, QuickCheck(), QuickLookup(), QuickOptions()]
        for quick in self._quickened:
            quick.install()
        contentviews.add(LLM())
        if "web_columns" in ctx.options and _is_unset("web_columns") and "comment" not in ctx.options.web_columns:
            ctx.options.update(web_columns=[*ctx.options.web_columns, "comment"])  # it tells what became of a call
        if _is_unset("connection_strategy"):
            # Before any client can come: to change it under a connection in the making breaks that one.
            ctx.options.update(connection_strategy="lazy")
            logger.info("sidestep: connection_strategy set to lazy, so that a host that is down cannot stop a call")

    def configure(self, updated: set[str]) -> None:
        if self._aside is not None:
            return
        if (found := ctx.options.sidestep_tunnel_others) not in TUNNEL_CHOICES:
            self._refuse(f"sidestep_tunnel_others: expected true or false, found {found!r}")
            return
        if (form := ctx.options.sidestep_log) not in FORMS:
            self._refuse(f"sidestep_log: expected one of {', '.join(FORMS)}, found {form!r}")
            return
        if form != self._form:
            self._dress(form)
        if "sidestep_config" in updated or self.engine is None:
            try:
                looked_for = places(ctx.options.sidestep_config)
                seen = stamps(looked_for.watched)
                chosen = choose(looked_for)
                self._tell_untrusted(chosen.untrusted)
                settings, kept = self._at_first(chosen)
            except ConfigError as e:
                self._refuse(str(e))
                return
            self._places, self._seen = looked_for, seen
            if self.engine is None and not self._join_fleet(settings):
                return
            self._take(settings, kept)

    def _at_first(self, chosen: Choice) -> tuple[Settings, Kept]:
        """Of a worker in the place of another: where what there is now is not taken by those that run, what they have.
        ConfigError: it is bad, and nobody runs."""
        kept = None if handover.share is None else handover.share.kept
        if kept is None or self.engine is not None:
            return _read(chosen)
        path, text = kept
        try:
            if not _is_lost(chosen, None if path is None else Path(path)):
                return _read(chosen)
        except ConfigError:
            pass  # it was told when it was found
        logger.warning("sidestep: the configuration cannot be taken as it is: that of the other workers is in force")
        return reading.default(os.environ) if path is None else reading.parse(text or "", os.environ, path), kept

    def _tells(self, what: str) -> bool:
        """Whether this process is to tell of what all workers of its port find: one of them does, once for each state
        of the files."""
        if handover.share is None:
            return True
        found = f"{what} {sorted(self._seen.items())}".encode("utf-8", "replace")
        return siblings.is_first(Path(handover.share.folder), blake2b(found, digest_size=8).hexdigest())

    def _dress(self, form: str) -> None:
        from sidestep.mitm.terminal import Dress

        if self._dressed is None:
            self._dressed = Dress()
        self._dressed.put_on(form)
        self._form = form
        if form == "json" and _is_unset("flow_detail"):
            ctx.options.update(flow_detail=0)  # mitmdump's own lines of flows are no JSON

    def _refuse(self, problem: str) -> None:
        """An error that is logged while mitmproxy starts stops the start; one that is raised out of a script would
        show a traceback as well."""
        if self.engine is not None:
            raise exceptions.OptionsError(f"sidestep: {problem}")
        if problem != self._refused:
            self._refused = problem
            logger.error(f"sidestep: {problem}")

    def _tell_untrusted(self, untrusted: Untrusted | None) -> None:
        if (words := str(untrusted or "")) != self._passed_over:
            self._passed_over = words
            if words and self._tells(words):
                logger.warning(f"sidestep: {words}")

    def _take(self, settings: Settings, kept: Kept) -> None:
        path = None if kept[0] is None else Path(kept[0])
        self.path, self._read = path, settings
        self._use(local.with_found(settings, self._found))
        handover.keep(kept)
        is_told = not self._runs and handover.share is not None and handover.share.kept == kept
        if not is_told and self._tells("configuration"):
            self._describe(settings, path)
        if self._runs:
            self._look_around()

    def _describe(self, settings: Settings, path: Path | None) -> None:
        logger.info(f"sidestep: configuration: {settings.source}")
        if path is not None and self._places.named is None and (others := trusting.others_may_write(path)):
            logger.warning(f"sidestep: others may write {path} ({others}), and choose in it where calls go")
        for line in describe(self._engine().settings):
            logger.info(f"sidestep: {line}")
        for line in (
            *in_the_clear(settings),
            *left_out(settings, ctx.options.allow_hosts, ctx.options.ignore_hosts),
        ):
            logger.warning(f"sidestep: {line}")

    def _join_fleet(self, settings: Settings) -> bool:
        """Before anybody is served: importing the client takes its time. False: it is not installed."""
        fleet = fleet_of(settings)
        if fleet is None:
            return True
        try:
            from sidestep.fleet.member import Member
        except ImportError:
            self._refuse("[fleet] url is set, and the client for it is not installed: install sidestep[fleet]")
            return False
        share = handover.share
        # All workers of a port have one name in the store, with a number.
        name = "" if share is None else f"{blake2b(share.folder.encode(), digest_size=3).hexdigest()}/{share.number}"
        self._fleet = Member(fleet, self.core.clock, self.core.tell, self.core.log_bug, name)
        return True

    def _use(self, settings: Settings) -> None:
        if self.engine is None:
            self.core.engine = Engine(settings)
            self.core.engine.tell = self.core.tell
        else:
            self.engine.reconfigure(settings)
        if self._fleet is not None:
            self._fleet.join(self._engine())
        is_other = fleet_of(settings) != (None if self._fleet is None else self._fleet.settings)
        if is_other and self._tells("fleet"):
            logger.warning("sidestep: a change of [fleet] takes effect when the proxy is started anew")

    def _look_around(self, *, again: bool = False) -> None:
        """Look for servers of this machine; nothing waits for that. `again`: those that were found before stay."""
        if self._looking is not None:
            self._looking.cancel()
        self._looked_at = self.core.clock()
        self._looking = asyncio.get_running_loop().create_task(self._look_for_servers(self._found if again else {}))
        self._keep(self._looking)

    def _look_again(self) -> None:
        """Where attempts have failed or met limits since, a server may have been started that was not there."""
        if self.core.clock() - self._looked_at < LOOK_AGAIN_SECONDS or self.engine is None:
            return
        attempts = self.engine.attempts_total.items()
        troubles = sum(count for (_, kind, _), count in attempts if kind in (Kind.FAILURE, Kind.COOLDOWN))
        if troubles > self._troubles:
            self._troubles = troubles
            self._look_around(again=True)

    async def _look_for_servers(self, known: dict[str, tuple[str, ...]]) -> None:
        settings = self._read
        if settings is None or settings.mode == "off":
            return
        # llama.cpp listens where mitmproxy does by default.
        ours = _own_ports()
        wanted = [p for p in local.looked_for(settings) if p.base_url.port not in ours]
        if not wanted:
            return
        for seconds in (0.0, *LOADING_LOOKS):
            await asyncio.sleep(seconds)
            found = await asyncio.to_thread(probing.models_of, wanted)
            try:
                now = {name: models for name, models in found.items() if models is not None}
                self._take_found(settings, {**known, **now})
            except Exception as e:
                self.core.log_bug("local", e)
            if None not in found.values():
                return

    def _take_found(self, settings: Settings, found: dict[str, tuple[str, ...]]) -> None:
        if found == self._found:
            return
        told = {*local.describe(settings, self._found), *describe(self._engine().settings)}
        self._found = found
        self._use(local.with_found(settings, found))
        tells = self._tells(f"found {sorted(found.items())}")
        for line in (*local.describe(settings, found), *describe(self._engine().settings)):
            if tells and line not in told:
                logger.info(f"sidestep: {line}")

    def running(self) -> None:
        if self._aside is not None:
            return
        if self.engine is None and not self._refused:
            # An addon that is added by `master.addons.add` is told of changes of options only.
            self.configure(set())
        self._runs = True
        if self._fleet is not None:
            self._fleet.start()
        self._trace()
        self._look_around()
        self._keep(asyncio.get_running_loop().create_task(self._watch()))
        self._keep(asyncio.get_running_loop().create_task(self._settle_in()))
        if handover.share is not None and self.engine is not None:
            self._meet_others(handover.share, self.engine)
        self._show_door()

    @staticmethod
    async def _settle_in() -> None:
        """What is better done before the first call than in the middle of it."""
        # The price list takes a quarter of a second to read.
        await asyncio.to_thread(prices.rates, "", "gpt-4o")
        # Nearly all that is there now stays: going through it each time costs the collector tens of milliseconds.
        gc.freeze()

    def _meet_others(self, share: handover.Share, engine: Engine) -> None:
        from sidestep.calls.others import Others

        self.core.others = others = Others(self.core, share)
        others.start(engine)
        self._keep(asyncio.get_running_loop().create_task(others.run()))

    def _trace(self) -> None:
        """Tell OpenTelemetry of calls, where its own variables ask for that."""
        signals = telemetry.wanted(os.environ)
        if not signals or self._exporter is not None:
            return
        try:
            from sidestep.otel import Exporter
        except ImportError:
            logger.info("sidestep: OTEL_… variables are set; for spans of calls, install sidestep[otel]")
            return
        loop = asyncio.get_running_loop()

        def say(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.core.tell, f"telemetry: {text}", text, logging.WARNING)

        try:
            self.core.tracing = self._exporter = Exporter(signals, os.environ, say)
        except Exception as e:
            logger.warning(f"sidestep: OpenTelemetry could not be set up ({type(e).__name__}); calls go on without it")
            return
        logger.info(f"sidestep: OpenTelemetry is told of calls: {' and '.join(sorted(signals))} by OTLP")

    def _show_door(self) -> None:
        """Say where the page is, and let a shell find this proxy."""
        if self.engine is None:
            return
        url = own_url()
        # All workers of one supervisor answer there, and leave one file.
        pid = os.getpid() if handover.share is None else handover.share.pid
        source, ports = self.engine.settings.source, tuple(sorted(_own_ports()))
        self._runtime = runtime.record(runtime.Running(pid, url or "", self.core.token, source, time.time(), ports))
        if url is None:
            return
        logger.info(
            f"sidestep: what happens is shown at {url}/#{self.core.token} (after the #: the token for its buttons)"
        )

    def done(self) -> None:
        if self._runtime is not None:
            if handover.share is None:
                self._runtime.unlink(missing_ok=True)
            self._runtime = None
        for task in self._tasks:
            task.cancel()
        if self._fleet is not None:
            self._fleet.stop()
        for quick in self._quickened:
            quick.remove()
        if self._exporter is not None:
            self._exporter.close()
            self.core.tracing = self._exporter = None
        if self._dressed is not None:
            self._dressed.take_off()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Tasks that nothing refers to may vanish."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Look at every place where a configuration may be, at a tenth of a millisecond of CPU time each.

        The system's own notices (`watchfiles`) would be the more usual way. They do not come from network mounts and
        from some volumes of containers, and would have to be asked for anew for each folder that is to come and along
        each link that may be turned: looking is simpler, and sees all of that.
        """
        last = self._seen
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look_again()
            now = await asyncio.to_thread(stamps, self._places.watched)
            if now == last and now != self._seen:
                before, self._seen = self._seen, now
                self._changed({place for place in now if now[place] != before.get(place)})
            last = now

    def _changed(self, changed: set[Path]) -> None:
        if any(self._seen[place] for place in changed):
            self._reload()
        elif self.path in changed:
            self._say_gone()

    def _say_gone(self) -> None:
        if self._tells("gone"):
            logger.warning(f"sidestep: {self.path} is gone; its settings stay in force, and it is looked for")

    def _reload(self) -> bool:
        """Read the configuration again; one that is bad, gone, or not trusted as it is now, leaves the old in force."""
        chosen = choose(self._places)
        self._tell_untrusted(chosen.untrusted)
        if _is_untrusted(chosen, self.path):
            if self._tells("untrusted"):
                logger.warning("sidestep: configuration not reloaded, the old one stays in force")
            return False
        if _is_lost(chosen, self.path):
            self._say_gone()
            return False
        try:
            settings, kept = _read(chosen)
        except ConfigError as e:
            if self._tells("bad"):
                logger.error(f"sidestep: configuration not reloaded, the old one stays in force: {e}")
            return False
        if settings == self._read:
            return True
        self._take(settings, kept)
        if self._tells("reloaded"):
            self.core.say(f"configuration reloaded from {settings.source}")
        return True

    # --- commands

    @command.command("sidestep.status")
    def status(self) -> str:
        """Each provider's circuit, as JSON."""
        return json.dumps(status.health(self._engine(), self.core.clock())[1], indent=1)

    @command.command("sidestep.circuit.open")
    def circuit_open(self, name: str) -> None:
        """Hold a provider's circuit open: nothing is sent to it."""
        self._hold(name, "open")

    @command.command("sidestep.circuit.disable")
    def circuit_disable(self, name: str) -> None:
        """Let everything through to a provider, whatever fails; it is still counted."""
        self._hold(name, "disable")

    @command.command("sidestep.circuit.auto")
    def circuit_auto(self, name: str) -> None:
        """Give a provider's circuit back to its own judgement."""
        self._hold(name, "auto")

    @command.command("sidestep.mode")
    def mode(self, mode: str) -> None:
        """Set the mode: enforce, observe or off."""
        from sidestep.calls import pages

        try:
            pages.set_mode(self.core, self._engine(), mode)
        except pages.RefusedError as e:
            raise exceptions.CommandError(str(e)) from None

    @command.command("sidestep.reload")
    def reload(self) -> None:
        """Read the configuration file again."""
        self._engine()
        if not self._reload():
            raise exceptions.CommandError(
                "the configuration is gone, not trusted or has problems, see the log; the old stays in force"
            )

    def _hold(self, name: str, how: str) -> None:
        from sidestep.calls import pages

        try:
            pages.hold(self.core, self._engine(), name, how)
        except pages.RefusedError as e:
            raise exceptions.CommandError(str(e)) from None

    def _engine(self) -> Engine:
        if self._aside is not None:
            raise exceptions.CommandError(f"sidestep: {self._aside}")
        if self.engine is None:
            raise exceptions.CommandError("sidestep has no configuration yet")
        return self.engine


def _read(chosen: Choice) -> tuple[Settings, Kept]:
    """ConfigError: all that is wrong with it."""
    text = chosen.text()
    return chosen.settings(os.environ, text), (None if chosen.path is None else str(chosen.path), text)


def _is_untrusted(chosen: Choice, path: Path | None) -> bool:
    """Whether the file that is in force is no longer trusted."""
    return chosen.untrusted is not None and chosen.untrusted.path == path


def _is_lost(chosen: Choice, path: Path | None) -> bool:
    """Whether the file that is in force may not be read, or is gone."""
    is_gone = path is not None and (chosen.path is None or not chosen.path.exists())
    return is_gone or _is_untrusted(chosen, path)


def fleet_of(settings: Settings) -> FleetSettings | None:
    """The fleet that this process belongs to: that of the configuration, or that of its supervisor."""
    if settings.fleet is not None or handover.share is None or handover.share.store is None:
        return settings.fleet
    url, secret = handover.share.store
    return FleetSettings(Secret(url), "sidestep", Secret(secret), OWN_STORE, "the supervisor")


def _own_ports() -> set[int]:
    """At which this proxy listens, in whatever mode."""
    server = ctx.master.addons.get("proxyserver")
    return set() if server is None else {port for _, port, *_ in server.listen_addrs()}


def own_url() -> str | None:
    """The address of this proxy's own port, where pages can be asked for; None where no mode has one."""
    from mitmproxy.proxy.mode_specs import RegularMode, UpstreamMode

    server = ctx.master.addons.get("proxyserver")
    for instance in () if server is None else server.servers:
        if isinstance(instance.mode, (RegularMode, UpstreamMode)) and instance.listen_addrs:
            host, port, *_ = instance.listen_addrs[0]
            host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)  # noqa: S104
            return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return None


def _add_options(loader: Loader) -> None:
    loader.add_option(
        "sidestep_config",
        str,
        "",
        "Sidestep's TOML file. Unset: ./sidestep.toml if it is trusted (sidestep trust), then sidestep/config.toml in "
        "the user's configuration folder, else every provider of the catalog whose key is in the environment.",
    )
    # mitmproxy's options know no optional bool.
    loader.add_option(
        "sidestep_tunnel_others",
        str,
        "",
        "Whether TLS to hosts under no intercept passes unopened: true or false. Unset: what the [proxy] table of "
        "Sidestep's configuration says.",
        choices=TUNNEL_CHOICES,
    )
    loader.add_option(
        "sidestep_log",
        str,
        "text",
        "How the log on the terminal looks: text, or json for an object a line.",
        choices=FORMS,
    )


def _is_unset(name: str) -> bool:
    """Whether an option was given no value, by the user or by another addon."""
    from mitmproxy import optmanager

    option = ctx.options._options.get(name)
    return option is not None and option.value is optmanager.unset
