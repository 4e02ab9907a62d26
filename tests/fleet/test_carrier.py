"""What is said to the store and what comes of it, with a client that answers as it is told to; real servers are in
tests/e2e/test_fleet_store.py."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from valkey.asyncio.connection import Connection, UnixDomainSocketConnection
from valkey.exceptions import ConnectionError as LostError
from valkey.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from sidestep.config.stores import Tls, address_of
from sidestep.fleet import connecting
from sidestep.fleet.carrier import ALONE_SECONDS, BATCH, Carrier
from sidestep.fleet.causes import ElsewhereError, NoMasterError
from sidestep.fleet.connecting import Connector
from sidestep.fleet.scripts import Script

SCRIPTS = len(Script)


class Client:
    """State: what it answers, a round trip at a time (an exception: it fails); what it was asked."""

    def __init__(self, *answers: list[Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []
        self.is_closed = False

    def pipeline(self, *, transaction: bool) -> Pipeline:
        assert not transaction
        return Pipeline(self)

    async def execute_command(self, *words: Any) -> Any:
        self.asked.append(words)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        self.is_closed = True


class Pipeline:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.words: list[tuple[Any, ...]] = []

    def execute_command(self, *words: Any) -> None:
        self.words.append(words)

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        self.client.asked += self.words
        if self.words[0][:2] == ("SCRIPT", "LOAD") and raise_on_error:
            return []
        answer = self.client.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Talk:
    """State: the clients that are opened one after another, and for which node of a Cluster; what was told."""

    def __init__(self, *clients: Client) -> None:
        self.clients = list(clients)
        self.nodes: list[Any] = []
        self.now = 100.0
        self.lines: list[str] = []
        self.bugs: list[Exception] = []
        self.carrier = Carrier(
            "redis://h", lambda: self.now, lambda _, text, __: self.lines.append(text), lambda _, e: self.bugs.append(e)
        )
        self.carrier._connector.open = self._open  # type: ignore[assignment,method-assign]

    async def _open(self, node: Any = None) -> Client:
        self.nodes.append(node)
        return self.clients.pop(0)

    async def ask(self, *words: str) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self.carrier.say(words[0], words[1:], [], lambda found, _: answer.set_result(found)):
            return "dropped"
        return await answer


@asynccontextmanager
async def talk(*clients: Client) -> AsyncIterator[Talk]:
    talking = Talk(*clients)
    task = asyncio.create_task(talking.carrier.run())
    yield talking
    task.cancel()
    await asyncio.wait([task])


async def test_scripts_are_brought_with_a_connection_and_then_called_by_name() -> None:
    client = Client([["", 0, []]], ["v"])
    async with talk(client) as talking:
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        assert talking.carrier.say(Script.PULL, ["k1", "k2"], ["", 0], lambda a, at: found.set_result((a, at)))
        assert await found == (["", 0, []], 100.0)
        assert await talking.ask("GET", "x") == "v"
    assert client.asked[SCRIPTS:] == [("EVALSHA", Script.PULL.sha, 2, "k1", "k2", "", 0), ("GET", "x")]
    assert client.is_closed
    assert (talking.carrier.sent, talking.lines) == (2, [])


async def test_what_waits_is_sent_in_batches() -> None:
    client = Client(["x"] * BATCH, ["x"])
    async with talk(client) as talking:
        answers = [talking.ask("PING") for _ in range(BATCH + 1)]
        assert await asyncio.gather(*answers) == ["x"] * (BATCH + 1)


async def test_given_up_after_two_failures_and_found_again() -> None:
    """All that waits has the error for its answer; while it is given up nothing is taken; a line for each change."""
    clients = Client(LostError("gone")), Client(LostError("gone")), Client(["v"])
    async with talk(*clients) as talking:
        assert isinstance(await talking.ask("GET", "x"), LostError)
        assert not talking.carrier.alone
        both = await asyncio.gather(talking.ask("GET", "x"), talking.ask("GET", "y"))
        assert [type(answer) for answer in both] == [LostError, LostError]
        assert talking.carrier.alone
        assert await talking.ask("GET", "x") == "dropped"
        talking.now += ALONE_SECONDS
        assert await talking.ask("GET", "x") == "v"
    assert all(client.is_closed for client in clients)
    assert talking.lines == [
        "fleet: alone, each process decides by itself: LostError".replace("LostError", "ConnectionError"),
        "fleet: with the others again",
    ]
    counts = talking.carrier.errors, talking.carrier.dropped, talking.carrier.refused
    assert counts == (2, 1, 0)


async def test_what_is_behind_a_batch_fails_with_it_once_the_store_is_given_up() -> None:
    """It would be old by then."""
    async with talk(Client(LostError("gone")), Client(LostError("gone"))) as talking:
        await talking.ask("GET", "x")
        answers = await asyncio.gather(*(talking.ask("PING") for _ in range(BATCH + 3)))
        assert {type(answer) for answer in answers} == {LostError}


async def test_a_refusal_is_one_commands_own() -> None:
    async with talk(Client([OutOfMemoryError("x"), "v"])) as talking:
        refused, other = await asyncio.gather(talking.ask("SET", "x"), talking.ask("GET", "y"))
    assert (type(refused), other) == (OutOfMemoryError, "v")
    assert talking.lines == ["fleet: the store refuses: it has no memory left (maxmemory)"]
    assert (talking.carrier.refused, talking.carrier.errors, talking.carrier.alone) == (1, 0, False)


@pytest.mark.parametrize(
    ("error", "node"),
    [(ReadOnlyError("x"), None), (ResponseError("MOVED 7 10.0.0.1:7001"), ("10.0.0.1", 7001))],
)
async def test_another_server_is_asked_from_then_on(error: Exception, node: Any) -> None:
    """The one that a Cluster names; where that is gone, the one of the URL again."""
    clients = Client([error]), Client(["v"], LostError("gone")), Client(["w"])
    async with talk(*clients) as talking:
        assert isinstance(await talking.ask("SET", "x"), ElsewhereError)
        assert await talking.ask("SET", "x") == "v"
        assert isinstance(await talking.ask("SET", "x"), LostError)
        assert await talking.ask("SET", "x") == "w"
    assert talking.nodes == [None, node, None]
    assert talking.lines == []


async def test_a_bug_in_an_answer_ends_nothing() -> None:
    async with talk(Client(["a", "b"])) as talking:
        assert talking.carrier.say("PING", [], [], lambda *_: [][0])
        assert await talking.ask("PING") == "b"
    assert [type(bug) for bug in talking.bugs] == [IndexError]


async def test_what_is_said_on_a_channel_is_heard() -> None:
    heard: list[str] = []
    done = asyncio.Event()

    class Messages:
        said: Sequence[Any] = ({"data": "1"}, None, {"data": 2})

        async def __aenter__(self) -> Messages:
            self.left = list(self.said)
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def subscribe(self, channel: str) -> None:
            assert channel == "c"

        async def get_message(self, **_: Any) -> Any:
            if not self.left:
                done.set()
                raise LostError("gone")
            return self.left.pop(0)

    client = Client()
    client.pubsub = Messages  # type: ignore[attr-defined]
    talking = Talk(client)
    task = asyncio.create_task(talking.carrier.listen("c", heard.append))
    await done.wait()
    while not client.is_closed:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert heard == ["1", "2"]


# --- whom it is said to


def test_what_a_connection_is_made_with() -> None:
    for url, kind, options in (
        ("redis://u:p@h:7/3", Connection, {"host": "h", "port": 7, "db": 3, "username": "u", "password": "p"}),
        ("unix:///run/s?db=1", UnixDomainSocketConnection, {"path": "/run/s", "db": 1}),
    ):
        pool = asyncio.run(Connector(address_of(url)).open()).connection_pool
        assert pool.connection_class is kind
        assert pool.connection_kwargs.items() >= options.items()


@pytest.mark.parametrize(
    ("node", "host"), [(("10.0.0.1", 7), ("10.0.0.1", 7)), (("", 7), ("h", 7)), (None, ("h", 6379))]
)
async def test_a_node_of_a_cluster(node: Any, host: tuple[str, int]) -> None:
    options = (await Connector(address_of("redis://h")).open(node)).connection_pool.connection_kwargs
    assert (options["host"], options["port"]) == host


async def test_the_first_sentinel_that_knows_names_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is asked last from then on; each has the Sentinels' own password, not the server's."""
    connector = Connector(address_of("redis+sentinel://u:p@a,b,c/m/3?sentinel_password=s"))
    opened: list[tuple[str, Client]] = []
    answers: dict[str, Any] = {"a": LostError("gone"), "b": ["10.0.0.1", "7"], "c": None}
    plain = connector._client

    def client(host: Any, *, of_sentinel: bool = False) -> Any:
        options = plain(host, of_sentinel=of_sentinel).connection_pool.connection_kwargs
        login = options["username"], options["password"], options["db"]
        assert login == ((None, "s", 0) if of_sentinel else ("u", "p", 3))
        opened.append((host[0], Client(answers.get(host[0], []))))
        return opened[-1][1]

    monkeypatch.setattr(connector, "_client", client)
    for expected in (["a", "b", "10.0.0.1"], ["b", "10.0.0.1"]):
        opened.clear()
        await connector.open()
        assert [host for host, _ in opened] == expected
        assert all(each.is_closed for _, each in opened[:-1])
    assert opened[0][1].asked == [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "m")]
    for answers["b"], error in ((None, LostError), (LostError("gone"), NoMasterError)):
        with pytest.raises(error):
            await connector.open()
        answers["a"] = None


def test_whose_certificate_is_taken(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca"))
    issued = ca.issue_cert("h")
    issued.private_key_pem.write_to_path(str(tmp_path / "k"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "c"))
    tls = address_of(f"rediss://h?ssl_ca_certs={tmp_path}/ca&ssl_certfile={tmp_path}/c&ssl_keyfile={tmp_path}/k").tls
    assert tls is not None
    context = connecting._context(tls)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.cert_store_stats()["x509"] == 1  # the machine's are not trusted beside it
    context = connecting._context(Tls(None, None, None, is_verified=False, checks_host=False))
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


async def test_tls_is_spoken_by_that(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca"))
    client = await Connector(address_of(f"rediss://h?ssl_ca_certs={tmp_path}/ca")).open()
    pool: Any = client.connection_pool
    connection = pool.make_connection()
    assert connection.ssl_context.get() is pool.connection_kwargs["context"]
