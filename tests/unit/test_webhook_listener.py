"""The receiver behind `penstock webhook listen`, over real HTTP."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from penstock.errors import ConfigError
from penstock.webhooks import Signer, new_key
from penstock.webhooks.listener import MAX_BODY_BYTES, Listener, Received
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import free_port

SIGNER = Signer([new_key()])
BODY = b'{"type":"job.succeeded"}'


@pytest.fixture
def messages() -> list[Received]:
    return []


@pytest.fixture
def listener(messages: list[Received]) -> Iterator[Listener]:
    with Listener(SIGNER, messages.append) as listener:
        yield listener


def post(listener: Listener, headers: dict[str, str], body: bytes = BODY) -> int:
    connection = http.client.HTTPConnection(urlsplit(listener.url).netloc, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/", body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def signed(message_id: str = "msg_1") -> dict[str, str]:
    return SIGNER.sign(message_id, BODY.decode(), at=time.time())


def test_a_valid_message_is_accepted(listener: Listener, messages: list[Received]) -> None:
    assert post(listener, signed()) == 204
    assert messages == [Received(id="msg_1", event={"type": "job.succeeded"})]
    assert messages[0].verified


def test_a_repetition_is_marked(listener: Listener, messages: list[Received]) -> None:
    assert [post(listener, signed()), post(listener, signed())] == [204, 204]
    assert [message.repeated for message in messages] == [False, True]


def test_a_forged_message_is_refused_and_shown(listener: Listener, messages: list[Received]) -> None:
    assert post(listener, signed(), BODY + b" ") == 401
    assert post(listener, {}) == 401
    assert [message.verified for message in messages] == [False, False]
    assert messages[1].id is None


def test_huge_and_unbounded_bodies_are_not_read(listener: Listener, messages: list[Received]) -> None:
    address = urlsplit(listener.url)
    for header, status in ((f"content-length: {MAX_BODY_BYTES + 1}", b"413"), ("transfer-encoding: chunked", b"411")):
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n".encode())
            assert connection.recv(100).split()[1] == status
    assert messages == []


def test_the_callback_chooses_the_answer() -> None:
    with Listener(SIGNER, lambda message: 503) as listener:
        assert post(listener, signed()) == 503


def test_a_port_that_is_taken_is_a_clear_error(listener: Listener) -> None:
    port = urlsplit(listener.url).port
    assert port is not None
    with pytest.raises(ConfigError, match=str(port)):
        Listener(SIGNER, lambda message: None, port=port).start()


def test_stop_frees_the_port_and_can_be_repeated(messages: list[Received]) -> None:
    port = free_port()
    listener = Listener(SIGNER, messages.append, port=port)
    listener.start()
    assert urlsplit(listener.url).port == port
    listener.stop()
    listener.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass
