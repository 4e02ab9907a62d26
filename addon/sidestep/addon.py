"""The mitmproxy addon: options, hooks, commands, and the one clock. No policy lives here.

Hooks come in the order of a request's way. A bug in any of them is logged once and the request goes where the
app sent it.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mitmproxy import command, contentviews, ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.addons import clientplayback
from mitmproxy.connection import Client
from mitmproxy.log import ALERT
from mitmproxy.proxy import layer as proxy_layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.mode_specs import LocalMode, ReverseMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.tls import ClientHelloData, TlsData
from mitmproxy.websocket import WebSocketData
from wsproto.frame_protocol import Opcode

from sidestep import answers, judging, prices, routing, status, story
from sidestep.circuit import State
from sidestep.config import describe
from sidestep.dispatch import Dispatch
from sidestep.engine import Attempt, Engine
from sidestep.environment import DIRECT_HOSTS
from sidestep.exchange import Exchange, Exhausted, Wait
from sidestep.flows import Field, Original, host_of, readable_body
from sidestep.handlers import see_off
from sidestep.layer import FailoverLayer
from sidestep.locating import UPSTREAM_AUTH, find_config, load_settings
from sidestep.outcomes import ErrorKind, Kind, Outcome
from sidestep.problems import ConfigError
from sidestep.session import Session
from sidestep.settings import Settings
from sidestep.view import LLM
from sidestep.watching import Shape

logger = logging.getLogger(__name__)

MODES = ("enforce", "observe", "off")
TUNNEL_CHOICES = ("", "true", "false")
REPLAYABLE = 64
"""Finished requests whose originals are kept in memory, for `replay.client` to send them as the app did."""
GOOD_CLOSES = (1000, 1001, 1005)
"""WebSocket close codes (RFC 6455): done, going away, none given."""
PROVIDERS_CLOSES = (1011, 1012, 1013, 1014)
"""An internal error, a restart, overload, a bad gateway: the provider's own trouble."""
VANISHED = 1006
DISTRUSTED = 100
"""Hosts of which it is said that a client does not trust their certificate."""
REPLAYABLE_BYTES = 1 << 20
"""Larger bodies are not kept for a replay."""


class Sidestep:
    """The addon. State: the engine with its settings, live sessions by flow id, client connections whose
    layers are ours, originals of finished requests for a replay."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self.engine: Engine | None = None
        self.sessions: dict[str, Session] = {}
        self.adopted: set[str] = set()
        self.replayable: OrderedDict[str, Original] = OrderedDict()
        self.path: Path | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop_watching: asyncio.Event | None = None
        self._logged: set[str] = set()
        self._distrusted: set[str] = set()
        self._refused = ""
        self._direct_hosts: str | None = None
        self._replay_handler: type[clientplayback.ReplayHandler] | None = None
        self._dispatch: Dispatch | None = None

    def load(self, loader: Loader) -> None:
        self._dispatch = Dispatch(ctx.master.addons)
        self._dispatch.install()
        contentviews.add(LLM())
        if _is_unset("connection_strategy"):
            # Before any client can come: to change it under a connection in the making breaks that one.
            ctx.options.update(connection_strategy="lazy")
            logger.info("sidestep: connection_strategy set to lazy, so that a host that is down cannot stop a call")
        if secret := os.environ.pop(UPSTREAM_AUTH, ""):
            # `sidestep run` stands in front of a proxy that wants a password: no command line shows it.
            ctx.options.update(upstream_auth=secret)
        self._direct_hosts = os.environ.pop(DIRECT_HOSTS, None)
        loader.add_option(
            "sidestep_config",
            str,
            "",
            "Sidestep's TOML file. Unset: ./sidestep.toml, then sidestep/config.toml in the user's "
            "configuration folder, else every provider of the catalog whose key is in the environment.",
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

    def configure(self, updated: set[str]) -> None:
        if (found := ctx.options.sidestep_tunnel_others) not in TUNNEL_CHOICES:
            self._refuse(f"sidestep_tunnel_others: expected true or false, found {found!r}")
            return
        if "sidestep_config" in updated or self.engine is None:
            try:
                path = find_config(ctx.options.sidestep_config)
                settings = load_settings(path, os.environ)
            except ConfigError as e:
                self._refuse(str(e))
                return
            self._take(settings, path)

    def _refuse(self, problem: str) -> None:
        """An error that is logged while mitmproxy starts stops the start; one that is raised out of a script would
        show a traceback as well."""
        if self.engine is not None:
            raise exceptions.OptionsError(f"sidestep: {problem}")
        if problem != self._refused:
            self._refused = problem
            logger.error(f"sidestep: {problem}")

    def _take(self, settings: Settings, path: Path | None) -> None:
        changed_file = path != self.path
        self.path = path
        if self.engine is None:
            self.engine = Engine(settings)
        else:
            self.engine.reconfigure(settings)
        for line in describe(settings):
            logger.info(f"sidestep: {line}")
        if changed_file and self._stop_watching is not None:
            self._watch_file()

    def running(self) -> None:
        self._adopt_replay()
        self._watch_file()
        self._keep(asyncio.get_running_loop().create_task(self._settle_in()))

    @staticmethod
    async def _settle_in() -> None:
        """What is better done before somebody's call than in the middle of it."""
        # The price list takes a quarter of a second to read.
        await asyncio.to_thread(prices.rates, "", "gpt-4o")
        # Nearly all that is there now stays: going through it each time costs the collector tens of milliseconds.
        gc.freeze()

    def done(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching.set()
        for task in self._tasks:
            task.cancel()
        for session in self.sessions.values():
            session.drop(judging.KILLED)
        self.sessions.clear()
        if self._replay_handler is not None:
            clientplayback.ReplayHandler = self._replay_handler  # type: ignore[misc]
            self._replay_handler = None
        if self._dispatch is not None:
            self._dispatch.remove()

    # --- connections

    def next_layer(self, nextlayer: proxy_layer.NextLayer) -> None:
        if nextlayer.layer is not None:
            return
        try:
            ctx.master.addons.get("nextlayer").next_layer(nextlayer)
            found: Any = nextlayer.layer
            while found is not None:
                if type(found) is HttpLayer:
                    FailoverLayer.adopt(found, self, self.clock)
                    self.adopted.add(nextlayer.context.client.id)
                found = getattr(found, "child_layer", None)
        except Exception as e:
            self._log_bug("next_layer", e)

    def tls_clienthello(self, data: ClientHelloData) -> None:
        if data.ignore_connection or self.engine is None:
            return
        try:
            data.ignore_connection = self._passes_unopened(data, self.engine)
        except Exception as e:
            self._log_bug("tls_clienthello", e)

    def _passes_unopened(self, data: ClientHelloData, engine: Engine) -> bool:
        """Whether a TLS connection of the client is none of our business."""
        chosen = ctx.options.sidestep_tunnel_others
        address = data.context.server.address
        # Without an address the TLS is with this proxy itself; in reverse mode all that comes was meant for us.
        if address is None or isinstance(data.context.client.proxy_mode, ReverseMode):
            return False
        if not (chosen == "true" or (not chosen and engine.settings.proxy.tunnel_others)):
            return False
        return not _is_ours(engine, data.client_hello.sni or address[0], address[1])

    def tls_failed_client(self, data: TlsData) -> None:
        """Say once a host that a client does not take our certificate: nothing can be done for its calls then."""
        engine, error = self.engine, data.conn.error or ""
        if engine is None or "alert" not in error or not ("certificate" in error or "unknown ca" in error):
            return
        address = data.context.server.address
        if address is None:
            return
        host = next((h for h in (data.conn.sni, address[0]) if h and _is_ours(engine, h, address[1])), None)
        if host is None or host in self._distrusted or len(self._distrusted) >= DISTRUSTED:
            return
        self._distrusted.add(host)
        ca = Path(ctx.options.confdir).expanduser() / "mitmproxy-ca-cert.pem"
        logger.warning(
            f"sidestep: a client does not trust our certificate for {host}, so its calls fail. Let it trust {ca}: "
            "SSL_CERT_FILE for Python, curl and Codex, NODE_EXTRA_CA_CERTS for Node. A client that pins certificates "
            f"cannot be intercepted: give it a base URL on --mode reverse:https://{host} instead"
        )

    def client_disconnected(self, client: Client) -> None:
        self.adopted.discard(client.id)
        for flow_id, session in tuple(self.sessions.items()):
            if session.flow.client_conn.id == client.id:
                session.drop(judging.CLIENT_GONE)
                session.engine.live.discard(session)
                del self.sessions[flow_id]

    def server_connected(self, data: ServerConnectionHookData) -> None:
        try:
            if data.client.id in self.adopted:
                see_off(data.client, data.server)
        except Exception as e:
            self._log_bug("server_connected", e)

    def _adopt_replay(self) -> None:
        """Let `replay.client` go through our layer as well."""
        addon = self
        original = clientplayback.ReplayHandler

        class ReplayHandler(original):  # type: ignore[misc, valid-type]
            def __init__(self, flow: http.HTTPFlow, options: Any) -> None:
                super().__init__(flow, options)
                FailoverLayer.adopt(self.layer, addon, addon.clock)
                addon.adopted.add(flow.client_conn.id)

        self._replay_handler = original
        clientplayback.ReplayHandler = ReplayHandler  # type: ignore[misc]

    # --- the way of a request

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        engine = self.engine
        if engine is None or engine.mode == "off" or flow.response or flow.error or not flow.live:
            return
        try:
            self._recognise(flow, engine)
        except Exception as e:
            self._fail_open(flow, "requestheaders", e)

    def _recognise(self, flow: http.HTTPFlow, engine: Engine) -> None:
        request = flow.request
        if flow.is_replay == "request" and (original := self.replayable.get(flow.id)) is not None:
            original.restore(request, credentials=True)
        method = request.method
        if method == "GET" and request.headers.get("upgrade", "").lower() != "websocket":
            return
        match = engine.routes.match(method, request.scheme, _host_of(flow), request.port, request.path)
        if match is None or flow.client_conn.id not in self.adopted:
            return
        acting = engine.mode == "enforce"
        session = Session(flow, match, engine, self.clock, acting=acting)
        session.direct_hosts = self._direct_hosts
        self.sessions[flow.id] = session
        if acting:
            request.stream = False
            session.original.strip(request)

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        if flow.response or flow.error or not flow.live or self.engine is None:
            return None
        try:
            session = self.sessions.get(flow.id)
            if session is None:
                if _host_of(flow) == answers.INTERNAL_HOST:
                    flow.response = answers.page(flow.request, self.engine, self.clock())
                return None
            if not self._plan(session):
                return None
            return self._advance(session) if session.acting else None
        except Exception as e:
            self._fail_open(flow, "request", e)
            return None

    def _plan(self, session: Session) -> bool:
        """Read the call and choose who may answer. False: it goes where the app sent it."""
        flow, match, engine = session.flow, session.match, session.engine
        if flow.is_replay == "request" and (before := self.replayable.get(flow.id)) is not None:
            if flow.request.raw_content == before.sent_body:
                flow.request.data.content = before.body
            elif "content-length" in flow.request.headers:  # edited since
                flow.request.headers["content-length"] = str(len(flow.request.raw_content or b""))
        session.original.refresh(flow.request)
        original = session.original
        query = flow.request.path.partition("?")[2]
        body = readable_body(original)
        call = session.call = match.dialect.read(match.operation, match.tail, query, original.content_type, body)
        now = self.clock()

        def plan(trusted: bool) -> routing.Plan:
            candidates = engine.routes.candidates(match, call.model, trusted_client=trusted)
            lacking = engine.lacking_models(now)
            return routing.plan(candidates, call, issuer_of=engine.issuer_of, knows_model=lacking)

        trusted = self._is_trusted(flow)
        chosen = plan(trusted)
        if chosen.passthrough:
            if session.acting and not trusted and not plan(True).passthrough:
                text = "this client may not use the provider keys: see allow_clients in sidestep's [proxy] table"
                flow.response = answers.error(match.dialect, 403, ErrorKind.CREDENTIAL, text)
                session.exchange = Exchange(engine, match, call, chosen, now)
                return False
            if session.acting:
                session.release()
            del self.sessions[flow.id]
            return False
        session.exchange = Exchange(engine, match, call, chosen, now, body_bytes=len(body))
        engine.live.add(session)
        if not session.acting:
            self._look_on(session)
        return True

    def _look_on(self, session: Session) -> None:
        """Mode `observe`: note what would be done, and judge the own provider by what the app gets."""
        engine, exchange, now = session.engine, session.exchange, self.clock()
        assert exchange is not None
        candidates = exchange.plan.candidates
        own = next((c for c in candidates if c.own), None)
        first = next((c for c in candidates if engine.would_admit(c, now)), None)
        first = first or next((c for c in candidates if engine.foresees_limit(c, now)), None)
        if first is None:
            session.advice = "sidestep would have answered 503: every provider is refused"
        elif not first.own:
            session.advice = f"sidestep would have asked {first.provider.name}"
        if session.advice is not None:
            logger.info(session.advice, extra={"client": session.flow.client_conn.peername})
        if own is not None:
            session.attempt = engine.look_on(own, now)
            exchange.attempts.append(session.attempt)
            session.answered_by = own.provider

    def _advance(self, session: Session) -> Awaitable[None] | None:
        """Make the flow the next attempt, or its end; a coroutine where that takes a wait."""
        exchange = session.exchange
        assert exchange is not None
        step = exchange.next(self.clock())
        if isinstance(step, Wait):
            return self._wait(session, step)
        self._apply(session, step)
        return None

    async def _wait(self, session: Session, step: Wait) -> None:
        exchange = session.exchange
        assert exchange is not None
        changed = asyncio.Event()
        changes = session.engine.changed
        changes.add(changed.set)
        try:
            following: Attempt | Wait | Exhausted = step
            while isinstance(following, Wait):
                changed.clear()
                if following.on_change:
                    try:
                        async with asyncio.timeout(following.seconds):
                            await changed.wait()
                    except TimeoutError:
                        pass
                else:
                    await asyncio.sleep(following.seconds)
                following = exchange.next(self.clock())
            self._apply(session, following)
        except Exception as e:
            self._fail_open(session.flow, "wait", e)
        finally:
            changes.discard(changed.set)

    def _apply(self, session: Session, step: Attempt | Exhausted) -> None:
        exchange = session.exchange
        assert exchange is not None
        if isinstance(step, Attempt):
            session.begin(step)
        elif not exchange.attempts:
            session.flow.response = answers.exhausted(exchange)

    def sidestep_next(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """Our own hook: the attempt under way has failed."""
        session = self.sessions.get(flow.id)
        if session is None:
            return None
        try:
            return self._advance(session)
        except Exception as e:
            self._log_bug("sidestep_next", e)
            return None

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is None or flow.response is None:
            return
        try:
            if session.watch is None and session.attempt is not None:
                self._record(session, flow.response)
            told: tuple[Field, ...] = ()
            if session.acting and session.engine.settings.proxy.response_headers:
                told = story.headers(session)
            by = session.answered_by
            # Another provider's cookies are not the app's: its host never set them.
            without = {b"set-cookie"} if by is not None and by.base_url != session.match.intercept else set()
            without.update(name for name, _ in told)
            fields = flow.response.data.headers.fields
            flow.response.data.headers.fields = (*(f for f in fields if f[0].lower() not in without), *told)
        except Exception as e:
            self._log_bug("responseheaders", e)

    def _record(self, session: Session, response: http.Response) -> None:
        """Judge from the hooks alone what a layer of ours does not carry: mode `observe`."""
        watch = session.open_watch(response)
        if watch.shape is Shape.OPAQUE:
            session.settle(watch.judge_end())
        elif watch.shape in (Shape.STREAM, Shape.FLOWING):
            before = response.stream

            def look_on(data: bytes) -> bytes | Iterable[bytes]:
                try:
                    piece = watch.feed(data)
                    if piece.content:
                        session.settle(judging.SUCCESS)
                    if piece.error is not None:
                        session.settle(judging.STREAM_ERROR if watch.begun else watch.judge_error_event(piece.error))
                except Exception as e:
                    self._log_bug("stream", e)
                return before(data) if callable(before) else data

            response.stream = look_on

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.websocket is not None:
            return
        session = self.sessions.pop(flow.id, None)
        if session is None:
            return
        try:
            attempt = session.attempt
            if attempt is not None and attempt in session.engine.in_flight and session.watch is not None:
                watch = session.watch
                if watch.shape in (Shape.WHOLE, Shape.ERROR) and flow.response is not None and not session.acting:
                    watch.feed(flow.response.raw_content or b"")
                elif watch.shape is Shape.STREAM:
                    watch.rest()
                session.end(watch.judge_end())
            self._finish(session)
        except Exception as e:
            session.drop(judging.OURS)
            self._log_bug("response", e)

    def error(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.pop(flow.id, None)
        if session is None:
            return
        try:
            session.drop(judging.CLIENT_GONE)
            self._finish(session)
        except Exception as e:
            self._log_bug("error", e)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is None or not session.acting or flow.websocket is None:
            return
        message = flow.websocket.messages[-1]
        if not message.from_client or message.type is not Opcode.TEXT:
            return
        try:
            content = session.app_frame(message.content)
            if content is not message.content:
                message.content = content
        except Exception as e:
            self._log_bug("websocket_message", e)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.pop(flow.id, None)
        if session is None:
            return
        try:
            session.end(self._judge_close(session, flow.websocket))
            self._finish(session)
        except Exception as e:
            self._log_bug("websocket_end", e)

    @staticmethod
    def _judge_close(session: Session, ended: WebSocketData | None) -> Outcome:
        """What the end of a WebSocket says of its provider. Its reason is not quoted: it may hold anything."""
        code = None if ended is None else ended.close_code
        if ended is None or ended.closed_by_client or code in (None, *GOOD_CLOSES):
            return judging.SUCCESS
        if code == VANISHED:
            session.note("the provider vanished without closing the WebSocket")
            return judging.TRUNCATED
        session.note(f"the provider closed the WebSocket with code {code}")
        return judging.STREAM_ERROR if code in PROVIDERS_CLOSES else judging.SUCCESS

    def _finish(self, session: Session) -> None:
        """The request is over: count it, tell its story, keep its original for a replay."""
        engine, exchange, flow = session.engine, session.exchange, session.flow
        engine.live.discard(session)
        if exchange is None:
            return
        last = exchange.current
        good = last is not None and last.outcome is not None and last.outcome.kind in (Kind.SUCCESS, Kind.NEUTRAL)
        result = "answered" if good and flow.error is None else "failed"
        engine.requests_total[(exchange.match.route.name, result)] += 1
        if session.acting and good and last is not None and not last.candidate.own:
            engine.rerouted[(session.match.addressed, last.candidate.provider.name)] += 1
        story.tell(session)
        if session.acting and len(session.original.body or b"") <= REPLAYABLE_BYTES:
            self.replayable[flow.id] = session.original
            while len(self.replayable) > REPLAYABLE:
                self.replayable.popitem(last=False)

    # --- what the layer asks

    def session(self, flow: http.HTTPFlow) -> Session | None:
        session = self.sessions.get(flow.id)
        return session if session is not None and session.acting else None

    def unrouted(self, flow: http.HTTPFlow) -> None:
        if (session := self.sessions.pop(flow.id, None)) is not None:
            session.release()

    def broke(self, flow: http.HTTPFlow) -> None:
        session = self.sessions.get(flow.id)
        if session is not None and session.attempt is not None:
            session.settle(judging.CONNECT if session.attempt.headers_at is None else judging.TRUNCATED)

    def phrase_exhausted(self, session: Session) -> http.Response:
        assert session.exchange is not None
        return answers.exhausted(session.exchange)

    # --- helpers

    def _is_trusted(self, flow: http.HTTPFlow) -> bool:
        """Whether provider keys may be used for this client."""
        assert self.engine is not None
        peer = flow.client_conn.peername
        address = _address(peer[0]) if peer else None
        if address is not None and address.is_loopback:
            return True
        if getattr(ctx.options, "proxyauth", None):
            return True
        if isinstance(flow.client_conn.proxy_mode, LocalMode):
            return True  # captured programs run on this machine, whatever address they seem to come from
        if address is None:
            return False
        networks = (ipaddress.ip_network(n, strict=False) for n in self.engine.settings.proxy.allow_clients)
        return any(address.version == n.version and address in n for n in networks)

    def _fail_open(self, flow: http.HTTPFlow, where: str, error: Exception) -> None:
        """A bug of ours: the request goes where the app sent it, with the app's credential."""
        self._log_bug(where, error)
        session = self.sessions.pop(flow.id, None)
        if session is not None:
            session.release()
            session.engine.live.discard(session)
            session.attempt = None

    def _log_bug(self, where: str, error: Exception) -> None:
        """Log a bug of ours once: type and place, for its text might quote a key or a prompt."""
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = "?" if at is None else f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        key = f"{where} {type(error).__name__} {place}"
        if key not in self._logged:
            self._logged.add(key)
            logger.error(f"sidestep: internal error in {where} ({type(error).__name__} at {place}); passing through")

    def _watch_file(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching.set()
        stop = self._stop_watching = asyncio.Event()
        if self.path is None:
            return
        self._keep(asyncio.get_running_loop().create_task(self._reload_on_change(self.path, stop)))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Tasks that nobody holds may vanish."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_on_change(self, path: Path, stop: asyncio.Event) -> None:
        import watchfiles

        async for changes in watchfiles.awatch(path.parent, stop_event=stop, recursive=False, debounce=200):
            if any(Path(changed).name == path.name for _, changed in changes):
                self._reload()

    def _reload(self) -> bool:
        """Read the configuration again; a bad one leaves the old in force."""
        try:
            path = find_config(ctx.options.sidestep_config)
            settings = load_settings(path, os.environ)
        except ConfigError as e:
            logger.error(f"sidestep: configuration not reloaded, the old one stays in force: {e}")
            return False
        if self.engine is not None and settings == self.engine.settings:
            return True
        self._take(settings, path)
        logger.log(ALERT, "sidestep: configuration reloaded")
        return True

    # --- commands

    @command.command("sidestep.status")
    def status(self) -> str:
        """Each provider's circuit, as JSON."""
        return json.dumps(status.health(self._engine(), self.clock())[1], indent=1)

    @command.command("sidestep.circuit.open")
    def circuit_open(self, name: str) -> None:
        """Hold a provider's circuit open: nothing is sent to it."""
        self._hold(name, State.FORCED_OPEN)

    @command.command("sidestep.circuit.disable")
    def circuit_disable(self, name: str) -> None:
        """Let everything through to a provider, whatever fails; it is still counted."""
        self._hold(name, State.DISABLED)

    @command.command("sidestep.circuit.auto")
    def circuit_auto(self, name: str) -> None:
        """Give a provider's circuit back to its own judgement."""
        self._hold(name, None)

    @command.command("sidestep.mode")
    def mode(self, mode: str) -> None:
        """Set the mode: enforce, observe or off."""
        if mode not in MODES:
            raise exceptions.CommandError(f"expected one of {', '.join(MODES)}, found {mode!r}")
        self._engine().mode = mode
        logger.log(ALERT, f"sidestep: mode {mode}")

    @command.command("sidestep.reload")
    def reload(self) -> None:
        """Read the configuration file again."""
        if not self._reload():
            raise exceptions.CommandError("the configuration has problems, see the log; the old one stays in force")

    def _hold(self, name: str, state: State | None) -> None:
        engine = self._engine()
        names = [p.name for p in engine.settings.providers]
        if name not in names:
            raise exceptions.CommandError(f"expected one of {', '.join(names)}, found {name!r}")
        engine.hold(name, state)
        logger.log(ALERT, f"sidestep: {name} is {'automatic' if state is None else state}")

    def _engine(self) -> Engine:
        if self.engine is None:
            raise exceptions.CommandError("sidestep has no configuration yet")
        return self.engine


@lru_cache(maxsize=256)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A client's address, None if it has none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_ours(engine: Engine, host: str, port: int) -> bool:
    """Whether what is sent to this host may be for us, so that its TLS has to be opened."""
    return host.lower() == answers.INTERNAL_HOST or engine.routes.lies_under(host, port)


def _host_of(flow: http.HTTPFlow) -> str:
    """The host that the app means. In reverse mode its Host header may name this proxy (`keep_host_header`)."""
    request = flow.request
    return request.host if isinstance(flow.client_conn.proxy_mode, ReverseMode) else host_of(request)


def _is_unset(name: str) -> bool:
    """Whether neither the user nor anybody else gave an option a value."""
    from mitmproxy import optmanager

    option = ctx.options._options.get(name)
    return option is not None and option.value is optmanager.unset
