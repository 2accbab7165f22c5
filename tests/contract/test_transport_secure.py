"""Other ways to reach Redis: TLS with a restricted user, and Sentinel with a failover."""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kombu
import kombu.transport
import pytest
import redis

from penstock.errors import BrokerUnavailable
from penstock.job import NewJob, new_id
from penstock.transport.claims import restore_expired
from penstock.transport.publisher import Publisher
from penstock.transport.refusals import Refused
from penstock.transport.url import connect, for_kombu
from tests.fixtures.certificate import certificate_of
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, until
from tests.fixtures.redisprogram import LoggedServer

QUEUE = "ns.embed.interactive"


def job(text: str) -> NewJob:
    return NewJob(
        id=new_id(), model="embed", version="1", input=text, lane="interactive", accepted_at=1.0, available_at=1.0
    )


@pytest.fixture(autouse=True)
def _our_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``install`` does, undone after the test."""
    ours = "penstock.transport.redis"
    for alias, name in (("rediss", "Transport"), ("sentinel", "SentinelTransport")):
        monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, alias, f"{ours}:{name}")
    monkeypatch.setattr(kombu.transport, "_transport_cache", {})


def consume(url: str, count: int) -> list[Any]:
    """Take ``count`` messages as a worker would, over a connection that is made again when it is lost."""
    settings = for_kombu(url)
    taken: list[Any] = []

    def take(message: Any) -> None:
        if len(taken) == count:
            return  # claimed beyond what is wanted: closing gives it back
        taken.append(message.payload[0][0])
        message.ack()

    options = {"namespace": "ns", "lease_s": 10.0, **settings.transport_options}
    connection = kombu.Connection(settings.url, ssl=settings.use_ssl or False, transport_options=options)
    while len(taken) < count:
        try:
            with (
                connection.clone() as opened,
                kombu.Consumer(
                    opened.channel(), [kombu.Queue(QUEUE, no_declare=True)], on_message=take, accept=["json"]
                ),
            ):
                while len(taken) < count:
                    with suppress(TimeoutError):
                        opened.drain_events(timeout=0.2)
        except connection.connection_errors + connection.channel_errors:
            continue
    return taken


# TLS and ACL ------------------------------------------------------------------------------------------------------


class TLSProxy:
    """Terminates TLS in front of a server's unix socket, as stunnel does for a Redis that is built without it."""

    def __init__(self, target: Path, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closing, self._closer = socket.socketpair()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while self._closing not in select.select([self._listener, self._closing], [], [])[0]:
            accepted, _ = self._listener.accept()
            self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
            self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        with (
            accepted,
            suppress(OSError),
            self._context.wrap_socket(accepted, server_side=True) as outer,
            socket.socket(socket.AF_UNIX) as inner,
        ):
            inner.connect(str(self._target))
            self._pump(outer, inner)

    def _pump(self, outer: ssl.SSLSocket, inner: socket.socket) -> None:
        while True:
            readable = [outer] if outer.pending() else select.select([outer, inner, self._closing], [], [])[0]
            if self._closing in readable:
                return
            for source, target in ((outer, inner), (inner, outer)):
                if source in readable:
                    data = source.recv(65_536)
                    if not data:
                        return
                    target.sendall(data)

    def close(self) -> None:
        self._closer.close()  # every select sees it
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._listener.close()
        self._closing.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate_of("localhost", tmp_path_factory.mktemp("tls"))


@pytest.fixture
def proxy(redis_server: RedisServer, broker_url: str, certificate: tuple[Path, Path]) -> Iterator[TLSProxy]:
    proxy = TLSProxy(redis_server.broker.socket, *certificate)
    yield proxy
    proxy.close()


@pytest.fixture
def restricted(broker: redis.Redis) -> Iterator[str]:
    """A user who can do no more than a worker must."""
    broker.execute_command(
        "ACL", "SETUSER", "worker", "on", ">pass", "~ns*", "~_kombu.*", "&*",
        "+@all", "-@admin", "-@dangerous", "+info",
    )  # fmt: skip
    yield "worker:pass"
    broker.execute_command("ACL", "DELUSER", "worker")


def test_tls_and_a_restricted_user(proxy: TLSProxy, certificate: tuple[Path, Path], restricted: str) -> None:
    url = f"rediss://{restricted}@localhost:{proxy.port}/0?ssl_ca_certs={certificate[0]}"
    publisher = Publisher(url, "ns")
    publisher.publish([job(str(i)) for i in range(100)])
    assert consume(url, 100) == list(range(100))
    with connect(url) as client:
        assert restore_expired(client, "ns") == 0
        for command in (client.flushall, lambda: client.get("elsewhere")):
            with pytest.raises(Refused) as caught:
                command()
            assert caught.value.code == "NOPERM"
    publisher.close()


@pytest.mark.parametrize(
    "address",
    ["worker:pass@localhost:{port}/0", "worker:wrong@localhost:{port}/0?ssl_ca_certs={ca}",
     "worker:pass@127.0.0.1:{port}/0?ssl_ca_certs={ca}&ssl_check_hostname=true"],
    ids=["unknown authority", "wrong password", "another host's certificate"],
)  # fmt: skip
def test_who_cannot_be_trusted_is_refused(
    address: str, proxy: TLSProxy, certificate: tuple[Path, Path], restricted: str
) -> None:
    publisher = Publisher("rediss://" + address.format(port=proxy.port, ca=certificate[0]), "ns")
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.check()
    assert "pass" not in str(caught.value).replace("password", "")
    publisher.close()


# Sentinel -----------------------------------------------------------------------------------------------------------


class SentinelGroup:
    """A primary, its replica, and one sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.sentinel_port = free_port()
        self.ports = [free_port(), free_port()]
        self._folder = folder
        self.servers: list[LoggedServer] = []
        for number, port in enumerate(self.ports):
            (folder / str(port)).mkdir()
            options = ["--replicaof", "127.0.0.1", str(self.ports[0])] if number else []
            self._spawn("--port", str(port), "--dir", str(folder / str(port)), "--save", "",
                        "--repl-diskless-sync-delay", "0", *options)  # fmt: skip
        self.servers[1].wait(self._replicating)  # a sentinel looks for new replicas only every ten seconds
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.sentinel_port}\ndir {folder}\nsentinel monitor main 127.0.0.1 {self.ports[0]} 1\n"
            # Not so soon that a primary that only waits for the processor is taken for dead.
            "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 5000\n"
        )
        self._spawn(str(configuration), "--sentinel")
        self.url = f"sentinel://127.0.0.1:{self.sentinel_port}/0?master_name=main"

    def _spawn(self, *arguments: str) -> None:
        self.servers.append(LoggedServer(*arguments, folder=self._folder))

    def _replicating(self) -> bool:
        with suppress(redis.RedisError), redis.Redis(port=self.ports[1], protocol=2) as replica:
            return replica.info("replication")["master_link_status"] == "up"
        return False

    def ready(self) -> bool:
        """Whether the sentinel knows both servers."""
        with suppress(redis.RedisError), redis.Redis(port=self.sentinel_port, protocol=2) as sentinel:
            (state,) = sentinel.sentinel_masters().values()
            return state["num-slaves"] == 1
        return False

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with tempfile.TemporaryDirectory(prefix="penstock-sentinel-") as folder:
        group = SentinelGroup(Path(folder))
        try:
            group.servers[-1].wait(group.ready)
            yield group
        finally:
            group.stop()


def test_a_failover_loses_nothing_that_was_replicated(group: SentinelGroup) -> None:
    publisher = Publisher(group.url, "ns")
    publisher.publish([job(str(i)) for i in range(100)])
    assert consume(group.url, 50) == list(range(50))
    with connect(group.url) as client:
        until(lambda: client.llen(QUEUE) == 50)
        assert client.wait(1, 5000) == 1
    group.servers[0].kill()

    def published() -> bool:
        with suppress(BrokerUnavailable):
            publisher.publish([job('"after"')])
            return True
        return False

    until(published, timeout_s=60)
    assert consume(group.url, 51) == [*range(50, 100), "after"]
    publisher.close()
