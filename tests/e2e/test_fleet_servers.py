"""Every way in which a store may be reached, on real servers: a password, users with few rights, TLS, Sentinels, a
Cluster."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from sidestep.fleet.carrier import Carrier
from sidestep.fleet.names import Names
from sidestep.fleet.scripts import Script
from support.fleet import Store, ask, free_port, state, together, until
from support.provider import Behaviour, Provider
from support.proxy import ROOT, Mitmdump
from support.settings import config

NAMES = Names("g", "s" * 16)
RIGHTS = " ".join(re.findall(r"`(~{sidestep}:[^`]*)`", (ROOT / "README.md").read_text())[0].split())
"""All that a group needs of a server, as the README names it."""
CLOSED = "it closed the connection (a server that wants TLS, or a certificate, does so)"
KINDS = pytest.mark.parametrize("kind", ["valkey", "redis"])


@dataclass
class Talk:
    """A carrier that talks to a store. State: what was told, what was heard on the group's channel."""

    url: str
    lines: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.carrier = Carrier(self.url, time.monotonic, lambda _, text, __: self.lines.append(text), self._raise)

    @staticmethod
    def _raise(where: str, error: Exception) -> None:
        raise error

    async def ask(self, command: Script | str, keys: Any, arguments: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.carrier.say(command, keys, arguments, lambda found, _: answer.set_result(found)):
            return "dropped"
        return await answer

    async def pull(self) -> Any:
        return await self.ask(Script.PULL, NAMES.table, ["", 0, 3])

    async def tell(self, entry: str = "c1") -> Any:
        return await self.ask(Script.TELL, NAMES.table, [entry, 0, 9000, "me.1", "open 0", "epoch", NAMES.channel, ""])

    async def until(self, done: Callable[[], Any], seconds: float = 15) -> Any:
        """Ask until it is so, as a process does that is alone."""
        end = time.monotonic() + seconds
        while not (found := await done()):
            assert time.monotonic() < end, self.lines
            await asyncio.sleep(0.05)
        return found

    async def is_well(self) -> bool:
        return isinstance(await self.pull(), list)

    async def has_told(self) -> bool:
        return isinstance(await self.tell(f"c{time.monotonic()}"), list)


@asynccontextmanager
async def talk(url: str) -> AsyncIterator[Talk]:
    talking = Talk(url)
    tasks = [
        asyncio.create_task(talking.carrier.run()),
        asyncio.create_task(talking.carrier.listen(NAMES.channel, talking.heard.append)),
    ]
    yield talking
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def refusal(url: str) -> str:
    """What is told of a store that cannot be used."""
    async with talk(url) as talking:
        await talking.until(lambda: _told(talking))
    [line] = talking.lines
    assert "CANARY" not in line
    return line.removeprefix("fleet: alone, each process decides by itself: ")


async def _told(talking: Talk) -> bool:
    await talking.pull()
    return bool(talking.lines)


async def works(url: str) -> None:
    """Scripts, plain commands, and what is heard on the channel."""
    async with talk(url) as talking:
        assert await talking.is_well()
        await talking.until(lambda: _is_heard(talking))
        assert await talking.ask("SET", [NAMES.issued("x")], ["p", "PX", 9000]) in ("OK", True)
        assert await talking.ask("MGET", [NAMES.issued("x"), NAMES.issued("y")], []) == ["p", None]
        assert await talking.ask(Script.CLAIM, [NAMES.probes("c1")], [1, 9000, "a"]) == [1, 0]
        assert await talking.ask(Script.LATER, NAMES.table, ["k1", 9000, 50, "me.2", "x", "e", NAMES.channel])
        assert await talking.ask(Script.HAND, NAMES.table, ["h1", "me.3", "hold auto", "e", NAMES.channel])
        assert await talking.ask(Script.HERE, NAMES.members, ["me", 9000, "ok 1 0", 3]) == ["me", "ok 1 0"]
        assert await talking.ask(Script.RELEASE, [NAMES.probes("c1")], ["a"]) == 1
        assert talking.lines == []


async def _is_heard(talking: Talk) -> bool:
    assert (await talking.tell(f"c{time.monotonic()}"))[0] == 1
    return bool(talking.heard)


# --- who may


@KINDS
async def test_a_password(kind: str, tmp_path: Path) -> None:
    """With characters that are something else in a URL; and every way in which it may be wrong."""
    port = free_port()
    with Store(tmp_path / "s", kind, port=str(port), requirepass="CANARY/@:#?%") as store:
        password = "CANARY%2F%40%3A%23%3F%25"
        await works(f"redis://:{password}@127.0.0.1:{port}/0")
        await works(f"unix://:{password}@{store.socket}")
        assert await refusal(f"redis://127.0.0.1:{port}") == "it wants a password"
        assert await refusal(f"redis://:CANARY@127.0.0.1:{port}") == "it refuses this user or password"
        assert await refusal(f"redis://CANARY:{password}@127.0.0.1:{port}") == "it refuses this user or password"


@KINDS
async def test_no_password_is_wanted(kind: str, tmp_path: Path) -> None:
    with Store(tmp_path / "s", kind) as store:
        assert await refusal(f"unix://:CANARY@{store.socket}") == "it wants no password, and the URL has one"
        assert await refusal(f"unix://{store.socket}?db=99") == "it has no database of this number"
        await works(f"unix://{store.socket}?db=3")


@KINDS
async def test_a_user_with_no_more_rights_than_a_group_needs(kind: str, tmp_path: Path) -> None:
    """Those that the README names. One that may do less is told so, without its name."""
    text = f"sidestep on >CANARY {RIGHTS.replace('{sidestep}', '{g}')}"
    with Store(tmp_path / "s", kind, user=text) as store:
        await works(f"unix://sidestep:CANARY@{store.socket}")
        few = store.ask("ACL", "SETUSER", "CANARYuser", "on", ">CANARY", "~*", "-@all", "+ping")
        assert few == b"+OK\r\n"
        assert await refusal(f"unix://CANARYuser:CANARY@{store.socket}") == "its user may not do that (ACL)"


@KINDS
async def test_a_server_that_has_become_a_replica(kind: str, tmp_path: Path) -> None:
    """It refuses what is written, and would for good: it is left, and its name looked up anew, as where an address
    moves on to another server."""
    with Store(tmp_path / "s", kind) as store:
        async with talk(f"unix://{store.socket}") as talking:
            assert await talking.has_told()
            client = talking.carrier._client
            store.ask("REPLICAOF", "127.0.0.1", str(free_port()))
            assert not await talking.has_told()
            store.ask("REPLICAOF", "NO", "ONE")
            await talking.until(talking.has_told)
            assert talking.carrier._client is not client
            assert [line for line in talking.lines if "replica" not in line and "again" not in line] == []


async def test_nobody_is_there(tmp_path: Path) -> None:
    assert await refusal(f"redis://127.0.0.1:{free_port()}") == "connection refused"
    assert await refusal("redis://no-such-host.invalid") == "its name was not found"
    words = "a file that the URL names is not there, or may not be opened"
    assert await refusal(f"unix://{tmp_path}/none") == words


# --- TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder with a CA, the server's certificate for localhost, the client's, and another CA."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for name, host in (("server", "localhost"), ("client", "client.test")):
        issued = ca.issue_cert(host)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    return tmp_path


def secure(folder: Path, port: int, *, wants_certificate: bool = False) -> Store:
    return Store(
        folder / "store",
        "redis",
        tls_port=str(port),
        tls_cert_file=str(folder / "server.pem"),
        tls_key_file=str(folder / "server.key"),
        tls_ca_cert_file=str(folder / "ca.pem"),
        tls_auth_clients="yes" if wants_certificate else "no",
    )


async def test_tls_with_a_ca_of_ones_own(certificates: Path) -> None:
    """A server whose certificate is of another CA, or another host's, gets no password; each cause has its words."""
    port = free_port()
    ca, other = f"ssl_ca_certs={certificates}/ca.pem", f"ssl_ca_certs={certificates}/other.pem"
    with secure(certificates, port):
        for scheme in ("rediss", "valkeys"):
            await works(f"{scheme}://localhost:{port}?{ca}")
        await works(f"rediss://127.0.0.1:{port}?{ca}&ssl_check_hostname=false")
        await works(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none")
        untrusted = (
            "its certificate is not trusted (a CA of your own is named in the URL: ?ssl_ca_certs=/path/to/ca.pem)"
        )
        for url, words in (
            (f"rediss://:CANARY@localhost:{port}", untrusted),
            (f"rediss://:CANARY@localhost:{port}?{other}", untrusted),
            (f"rediss://:CANARY@127.0.0.1:{port}?{ca}", "its certificate is another host's"),
            (f"rediss://:CANARY@localhost:{port}?ssl_ca_certs=/none.pem", "a file that the URL names is not there"),
            (f"rediss://localhost:{port}?ssl_ca_certs={certificates}/server.key", "a file that the URL names is no"),
            (f"redis://:CANARY@localhost:{port}", CLOSED),
        ):
            assert (await refusal(url)).startswith(words), url


async def test_tls_with_a_certificate_of_the_client(certificates: Path) -> None:
    port = free_port()
    own = f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
    with secure(certificates, port, wants_certificate=True):
        await works(f"rediss://localhost:{port}?ssl_ca_certs={certificates}/ca.pem&{own}")
        words = await refusal(f"rediss://localhost:{port}?ssl_ca_certs={certificates}/ca.pem")
        # It says so and resets the connection: which of both is seen first is chance.
        assert words in ("it wants a certificate (ssl_certfile, ssl_keyfile)", CLOSED)


@KINDS
async def test_tls_to_a_server_without(kind: str, tmp_path: Path) -> None:
    port = free_port()
    with Store(tmp_path / "s", kind, port=str(port)):
        words = await refusal(f"rediss://localhost:{port}")
        assert words in ("no answer in time", "it speaks no TLS (redis://, not rediss://)")  # it waits for a line's end


# --- Sentinels


class Sentinels:
    """A master, a replica of it, and three Sentinels that watch them. `user`: CANARY with a password, for the servers;
    `password`: the Sentinels' own."""

    def __init__(self, folder: Path, kind: str, stack: ExitStack) -> None:
        kept: set[int] = set()
        ports = [free_port(kept) for _ in range(5)]
        login: dict[str, Any] = {"requirepass": "CANARY1", "masterauth": "CANARY1", "repl_diskless_sync_delay": "0"}
        self.servers = {p: Store(folder / str(p), kind, port=str(p), **login) for p in ports[:2]}
        self.servers[ports[1]].settings["replicaof"] = f"127.0.0.1 {ports[0]}"
        for server in self.servers.values():
            stack.enter_context(server)
        self.ports = ports[2:]
        self.all = []
        for port in self.ports:
            sentinel = Store(folder / str(port), kind, flags=("--sentinel",), port=str(port), requirepass="CANARY2")
            sentinel.settings["sentinel"] = "\nsentinel ".join(
                (
                    f"monitor m 127.0.0.1 {ports[0]} 2",
                    "auth-pass m CANARY1",
                    "down-after-milliseconds m 500",
                    "failover-timeout m 1000",
                    "sentinel-pass CANARY2",
                )
            )
            self.all.append(stack.enter_context(sentinel))
        until(lambda: all(self._knows_all(each) for each in self.all), 20)

    def _knows_all(self, sentinel: Store) -> bool:
        told = sentinel.ask("SENTINEL", "MASTER", "m", password="CANARY2")
        fields = told.split(b"\r\n")
        values = {fields[i]: fields[i + 2] for i in range(2, len(fields) - 2, 2)}
        return values.get(b"num-other-sentinels") == b"2" and values.get(b"num-slaves") == b"1"

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://:CANARY1@{hosts}/m?sentinel_password=CANARY2"

    @property
    def master(self) -> Store:
        """As the last Sentinel has it."""
        told = self.all[-1].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "m", password="CANARY2").split(b"\r\n")
        return self.servers[int(told[4])]


@KINDS
async def test_sentinels(kind: str, stack: ExitStack, tmp_path: Path) -> None:
    """They name the master; where one of them is gone, others do; and when it dies, the next one."""
    sentinels = Sentinels(tmp_path, kind, stack)
    await works(sentinels.url)
    assert await refusal(sentinels.url.replace("/m?", "/CANARY?")) == "the Sentinels know no master of this name"
    assert await refusal(sentinels.url.partition("?")[0]) == "it wants a password"
    assert await refusal(sentinels.url.replace("CANARY1", "CANARY")) == "it refuses this user or password"
    sentinels.all[0].freeze()
    await works(sentinels.url)
    sentinels.all[0].thaw()
    async with talk(sentinels.url) as talking:
        assert await talking.has_told()
        first = sentinels.master
        first.kill()
        await talking.until(talking.has_told, 20)
        assert sentinels.master is not first
        assert len(talking.lines) == 2
        assert re.search("alone.*: (connection refused|it closed the connection|no answer in time)", talking.lines[0])


def test_calls_go_on_while_a_master_fails_over(
    provider: Callable[..., Provider], stack: ExitStack, tmp_path: Path
) -> None:
    """Two proxies, calls at both all the time: no call fails or waits for it, what is still open is told to the new
    master, and no secret is said anywhere."""
    sentinels = Sentinels(tmp_path, "redis", stack)
    a, b = provider("a"), provider("b")
    tables: dict[str, Any] = {"fleet": {"url": sentinels.url}, "circuit": {"failure_threshold": 1, "open_seconds": 30}}
    text = config("chat", a, b, own=a, attempts={"per_provider": 1}, **tables)
    one, two = proxies = [stack.enter_context(Mitmdump(tmp_path / f"p{i}", text)) for i in range(2)]
    together(*proxies)
    ask(two, a, "first")
    a.then(Behaviour(status=503))
    ask(one, a, "bad")
    until(lambda: state(two, "a") == "open", 1.5)
    ended = threading.Event()
    times: list[float] = []

    def calls(m: Mitmdump) -> None:
        while not ended.wait(0.02):
            began = time.monotonic()
            assert ask(m, a, f"{m.port} {began}") == (200, "b:200")
            times.append(time.monotonic() - began)

    with ThreadPoolExecutor(2) as pool:
        calling = [pool.submit(calls, m) for m in proxies]
        try:
            sentinels.master.kill()
            for m in proxies:
                m.wait_for_log("fleet: alone, each process decides by itself: ")
                m.wait_for_log("fleet: with the others again", 30)
        finally:
            ended.set()
        for each in calling:
            each.result()
    assert max(times) < 1  # the machine is shared
    [three] = [stack.enter_context(Mitmdump(tmp_path / "three", text))]
    together(three)
    assert ask(three, a, "heard") == (200, "b:200")
    for m in (*proxies, three):
        pages = b"".join(m.page(path)[1] for path in ("/health", "/metrics", "/"))
        assert "CANARY" not in m.log.replace("pk-b-CANARY", "") + pages.decode().replace("pk-b-CANARY", "")
        assert m.health()["fleet"]["store"].startswith("redis+sentinel://127.0.0.1:")


# --- a Cluster


class Cluster:
    """A node with the group's keys and a replica of it, and one with all others."""

    def __init__(self, folder: Path, kind: str, stack: ExitStack) -> None:
        kept: set[int] = set()
        self.ports = [free_port(kept) for _ in range(3)]
        more: dict[str, Any] = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": "2000",
            "repl_diskless_sync_delay": "0",
        }
        self.nodes = [
            stack.enter_context(Store(folder / str(port), kind, port=str(port), **more)) for port in self.ports
        ]
        keys, others, replica = self.nodes
        slot = int(keys.ask("CLUSTER", "KEYSLOT", "{g}:m")[1:])
        assert keys.ask("CLUSTER", "ADDSLOTSRANGE", str(slot), "16383") == b"+OK\r\n"
        assert others.ask("CLUSTER", "ADDSLOTSRANGE", "0", str(slot - 1)) == b"+OK\r\n"
        for node in (others, replica):
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(self.ports[0]))
        myself = keys.ask("CLUSTER", "MYID").split(b"\r\n")[1]
        until(lambda: replica.ask("CLUSTER", "REPLICATE", myself) == b"+OK\r\n", 20)
        until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"), 20)
        until(lambda: all(self._is_whole(node) for node in self.nodes), 20)

    def _is_whole(self, node: Store) -> bool:
        """It works, and knows all others, so that it is told of a replica that takes a place."""
        known = node.ask("CLUSTER", "NODES")
        is_linked = known.count(b" connected") == 3 and b"handshake" not in known and known.count(b"slave") == 1
        return is_linked and b"cluster_state:ok" in node.ask("CLUSTER", "INFO")


@KINDS
async def test_a_cluster(kind: str, stack: ExitStack, tmp_path: Path) -> None:
    """Any node is named; the one that has the group's keys is found, and found again when a replica takes its place."""
    cluster = Cluster(tmp_path, kind, stack)
    keys, _, replica = cluster.nodes
    url = f"redis://127.0.0.1:{cluster.ports[1]}"
    async with talk(url) as talking:
        await talking.until(talking.has_told)
        assert talking.lines == []
        assert keys.ask("HLEN", NAMES.table[1]) != b":0\r\n"
        keys.kill()
        assert replica.ask("CLUSTER", "FAILOVER", "TAKEOVER") == b"+OK\r\n"
        await talking.until(talking.has_told, 20)
    await works_soon(url)
    assert await refusal(f"{url}/1") in ("a Cluster has the database 0 alone", "it has no database of this number")


async def works_soon(url: str) -> None:
    async with talk(url) as talking:
        await talking.until(talking.has_told)
        await talking.until(lambda: _is_heard(talking))
