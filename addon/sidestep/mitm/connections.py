"""Client connections, before there are calls in them: whose layers are ours, whose TLS passes unopened."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mitmproxy import ctx, http
from mitmproxy.addons import clientplayback
from mitmproxy.connection import Client, Server
from mitmproxy.proxy import layer as proxy_layer
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.proxy.mode_specs import ReverseMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.proxy.tunnel import TunnelLayer
from mitmproxy.tls import ClientHelloData, TlsData

from sidestep import runtime
from sidestep.calls import replies
from sidestep.calls.clients import may_use_keys
from sidestep.calls.shared import Core
from sidestep.mitm.causes import CLOSED, RESET, UNTRUSTED, cause_of, issuer_of
from sidestep.mitm.handlers import asks_the_manager, close, leads_back, report_end, stays_here, was_reset
from sidestep.mitm.layer import AtOnce, FailoverLayer, never
from sidestep.mitm.stream import Conductor
from sidestep.routing.engine import Engine

logger = logging.getLogger(__name__)

DISTRUSTED = 100
"""Hosts of which it is said that a client does not trust their certificate."""


class Connections:
    """State: what the layers ask, who carries out hooks, hosts whose certificates clients did not take, kinds of HTTP
    layer that are not mitmproxy's own and were told of, mitmproxy's own replay handler while ours is in its place."""

    name = "sidestep.connections"

    def __init__(self, core: Core, conductor: Conductor, at_once: AtOnce | None = None) -> None:
        self.core = core
        self._conductor = conductor
        self._at_once = at_once
        self._distrusted: set[str] = set()
        self._foreign: set[type[HttpLayer]] = set()
        self._replay_handler: type[clientplayback.ReplayHandler] | None = None

    def running(self) -> None:
        self._adopt_replay()

    def done(self) -> None:
        if self._replay_handler is not None:
            clientplayback.ReplayHandler = self._replay_handler  # type: ignore[misc]
            self._replay_handler = None

    def next_layer(self, nextlayer: proxy_layer.NextLayer) -> None:
        """Adopt the HTTP layer that is chosen, by mitmproxy or by another addon that was asked before this one."""
        client, engine = nextlayer.context.client, self.core.engine
        try:
            if engine is not None and not may_use_keys(client, engine.settings.proxy.allow_clients):
                return  # what is none of our business costs what it costs without us
            if nextlayer.layer is None:
                ctx.master.addons.get("nextlayer").next_layer(nextlayer)
            found = nextlayer.layer
            while isinstance(found, TunnelLayer):
                found = found.child_layer
            if not isinstance(found, HttpLayer) or found.connections:
                return  # another protocol, or a layer that has begun its work
            if type(found) is HttpLayer:
                at_once = self._at_once if self._at_once is not None and asks_the_manager(client) else never
                FailoverLayer.adopt(found, self._conductor, self.core.clock, at_once)
                self.core.adopted.add(client.id)
            elif type(found) not in self._foreign:
                self._foreign.add(type(found))
                kind = f"{type(found).__module__}.{type(found).__qualname__}"
                logger.warning(f"sidestep: calls pass through in an HTTP layer of another addon's own ({kind})")
        except Exception as e:
            self.core.log_bug("next_layer", e)

    def tls_clienthello(self, data: ClientHelloData) -> None:
        if data.ignore_connection or self.core.engine is None:
            return
        try:
            data.ignore_connection = self._passes_unopened(data, self.core.engine)
        except Exception as e:
            self.core.log_bug("tls_clienthello", e)

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
        engine, error = self.core.engine, data.conn.error or ""
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

    def tls_failed_server(self, data: TlsData) -> None:
        """Keep what mitmproxy forgets of a handshake that fails: who has issued the certificate that was not trusted,
        and whether the connection was reset. Where the layers hear of its failure its cause is told with that."""
        server = data.conn
        if not isinstance(server, Server) or server.address is None:
            return
        if data.context.client.id not in self.core.adopted:
            return
        try:
            cause = cause_of(server.error)
            if cause == CLOSED and was_reset(data.context.client, server):
                cause = RESET
            elif cause == UNTRUSTED and data.ssl_conn is not None:
                shown = data.ssl_conn.get_peer_cert_chain(as_cryptography=True)
                issuer = issuer_of(shown[0]) if shown else ""
                cause += f": issued by {issuer}" if issuer else ""
            self.core.handshakes.put((server.address[0], server.address[1]), (server.error or "", cause))
        except Exception as e:
            self.core.log_bug("tls_failed_server", e)

    def client_disconnected(self, client: Client) -> None:
        self.core.adopted.discard(client.id)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        try:
            if leads_back(data.server):
                text = "a request that leads back to this proxy's own port was ended"
                self.core.tell(text, text)
                close(data.client, data.server)
            elif self._leads_on(data.client, data.server):
                text = (
                    "a client that may use no key was kept from the port of another proxy with Sidestep, for it "
                    "would take it for a program of this machine"
                )
                self.core.tell(text, text)
                close(data.client, data.server)
            if data.client.id in self.core.adopted:
                report_end(data.client, data.server)
        except Exception as e:
            self.core.log_bug("server_connected", e)

    def _leads_on(self, client: Client, server: Server) -> bool:
        """Whether a client that may use no key is about to reach another proxy of this user's, which trusts whoever
        comes from this machine."""
        allowed = () if self.core.engine is None else self.core.engine.settings.proxy.allow_clients
        if not stays_here(server) or may_use_keys(client, allowed):
            return False
        return server.peername is not None and server.peername[1] in runtime.ports()

    def _adopt_replay(self) -> None:
        """Let `replay.client` go through our layer as well."""
        core, conductor = self.core, self._conductor
        original = clientplayback.ReplayHandler

        class ReplayHandler(original):  # type: ignore[misc, valid-type]
            def __init__(self, flow: http.HTTPFlow, options: Any) -> None:
                super().__init__(flow, options)
                FailoverLayer.adopt(self.layer, conductor, core.clock)
                core.adopted.add(flow.client_conn.id)

        self._replay_handler = original
        clientplayback.ReplayHandler = ReplayHandler  # type: ignore[misc]


def _is_ours(engine: Engine, host: str, port: int) -> bool:
    """Whether what is sent to this host may be for us, so that its TLS has to be opened."""
    return host.lower() == replies.INTERNAL_HOST or engine.routes.lies_under(host, port)
