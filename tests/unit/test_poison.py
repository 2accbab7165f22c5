"""Broken messages against everything that reads them: what a message does wrong is the message's fault alone."""

from __future__ import annotations

import bz2
import lzma
import random
import zlib
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.consumer import Consumer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import compression
from kombu.transport.virtual import Channel

import penstock
from penstock.client.inbox import Inbox
from penstock.dispatch.admission import read
from penstock.policy.batching import Greedy
from penstock.settings import Settings
from penstock.transport import inspect
from penstock.transport.channel import BulkChannel
from penstock.transport.message import decode, id_of
from penstock.transport.readable import Unreadable, payload_of, while_reading
from penstock.transport.unpacking import TooLarge, bound, bounded
from penstock_worker.app import build
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.intake import Intake
from tests.fixtures.poison import DEPTH, as_bytes, broken, samples
from tests.fixtures.worker import MODELS

NS, MODEL, PLAIN = "ns", "echo", "plain.task"


@penstock.model(name=MODEL)
def echo(batch: list[object]) -> list[object]:
    return batch


def nothing(*args: object) -> None:
    """A plain task."""


class Receiver:
    """The real way of a message through kombu and Celery, without servers."""

    def __init__(self) -> None:
        app: Any = build(Settings(namespace=NS, models=[MODELS], broker_url="redis://127.0.0.1:1"))
        app.task(name=PLAIN, shared=False)(nothing)
        app.finalize()
        self.batcher = Batcher({MODEL: echo}, Greedy(), namespace=NS)
        self.aside: list[Any] = []
        consumer: Any = object.__new__(Consumer)
        consumer.__dict__ |= {
            "app": app,
            "strategies": {},
            "hostname": "w@h",
            "pool": SimpleNamespace(signal_safe=False, apply_async=nothing),
            "event_dispatcher": None,
            "timer": SimpleNamespace(call_at=lambda *args, **kwargs: None),
            "controller": SimpleNamespace(state=SimpleNamespace(revoked={}), penstock=None),
            "connection_errors": (),
            "disable_rate_limits": True,
            "task_buckets": {},
            "on_task_message": set(),
            "on_task_request": lambda request: None,
            "qos": SimpleNamespace(increment_eventually=lambda: None),
            "_maximum_prefetch_restored": True,
            "restart_count": 0,
            "call_soon_ack": lambda *args: None,
            "penstock_intake": self.intake,
        }
        backend = app.backend  # no server
        backend.store_result = backend.mark_as_failure = backend.mark_as_revoked = lambda *args, **kwargs: None
        for name in (PLAIN, f"{NS}.{MODEL}"):
            consumer.strategies[name] = app.tasks[name].start_strategy(app, consumer)
        self._take = consumer.create_task_handler()

    @property
    def intake(self) -> Intake:
        announcer: Any = SimpleNamespace(received=lambda items: None, send=lambda news, acks: None)
        return Intake(self.batcher, announcer, {MODEL: echo}, default_timeout_s=1.0)

    def receive(self, raw: bytes) -> None:
        """As ``transport.delivery`` does it. Raises what would end a worker."""
        inspect._message(raw)
        id_of(raw)
        if (envelope := decode(raw)) is not None:
            self.intake.take("q", [envelope])
            return
        try:
            payload = payload_of(raw, 1)
        except Unreadable:
            return
        try:
            channel = SimpleNamespace(
                decode_body=partial(Channel.decode_body, Channel),  # type: ignore[arg-type]
                set_aside=lambda *args: self.aside.append(args),
                no_ack_consumers=None,
                basic_ack=lambda *args, **kwargs: None,
                basic_reject=lambda *args, **kwargs: None,
            )
            message: Any = BulkChannel.Message(payload, channel=channel)
            message.accept = {"application/json"}
            if message.errors:
                return
            self._take(message)
        except Exception as error:
            if not while_reading(error):
                raise


@pytest.fixture(scope="module")
def receiver() -> Receiver:
    return Receiver()


SAMPLES = samples(NS, MODEL, PLAIN)


@given(st.integers(0, len(SAMPLES) - 1), st.randoms(use_true_random=False))
@settings(max_examples=150)
@example(0, random.Random(0))
def test_no_broken_message_ends_a_worker(receiver: Receiver, sample: int, choice: random.Random):
    receiver.receive(broken(SAMPLES[sample], choice))


@pytest.mark.soak
@given(st.integers(0, len(SAMPLES) - 1), st.randoms(use_true_random=False))
@settings(max_examples=50_000)
def test_no_broken_message_ends_a_worker_for_long(receiver: Receiver, sample: int, choice: random.Random):
    receiver.receive(broken(SAMPLES[sample], choice))


@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(raw: bytes):
    id_of(raw)
    assert decode(raw) is None
    with pytest.raises(Unreadable):
        payload_of(raw, 1)


def test_the_samples_are_read(receiver: Receiver):
    ours, theirs, other = map(as_bytes, SAMPLES)
    assert decode(ours) is not None
    for raw in (theirs, other):
        assert payload_of(raw, 5)["properties"]["delivery_tag"] == 5
    before = len(receiver.batcher)
    receiver.receive(theirs)
    assert len(receiver.batcher) == before + 1


@pytest.mark.parametrize("where", ["args", "headers", "top"])
def test_of_a_message_nested_too_deeply_the_id_is_known(where: str):
    deep = b"[" * DEPTH + b"]" * DEPTH
    raw = as_bytes(SAMPLES[1])
    id = SAMPLES[1]["headers"]["id"]
    at = {"args": b'"body":', "headers": b'"shadow": ', "top": b"{"}[where]
    put = {"args": b'"body":', "headers": b'"shadow": ' + deep + b', "x": ', "top": b'{"x": ' + deep + b", "}[where]
    raw = raw.replace(at, put, 1)
    if where == "args":
        raw = raw.replace(b'"body": ', b'"body": ' + deep + b', "x": ', 1)
    assert decode(raw) is None
    assert id_of(raw) == id
    with pytest.raises(Unreadable):
        payload_of(raw, 1)


def test_what_listens_to_broadcasts_passes_over_what_it_cannot_read():
    deep = b"[" * DEPTH + b"]" * DEPTH
    inbox = Inbox()
    for raw in (deep, b"\xff", b'"\xc3', b"{}", b'[{"id":' + deep + b"}]"):
        inbox.deliver(raw)
        inbox.hear(raw)
        assert read({"w": raw}) == {}


@pytest.mark.parametrize(
    ("pack", "unpack"),
    [(zlib.compress, zlib.decompressobj), (bz2.compress, bz2.BZ2Decompressor), (lzma.compress, lzma.LZMADecompressor)],
)
def test_a_small_message_does_not_unpack_to_a_huge_one(pack: Any, unpack: Any):
    decode = bounded(unpack, 100_000)
    assert decode(pack(b"x" * 100_000)) == b"x" * 100_000
    with pytest.raises(TooLarge):
        decode(pack(b"x" * 100_001))
    with pytest.raises(ValueError, match="cut short"):
        decode(pack(b"x" * 1000)[:-9])


def test_the_worker_unpacks_so():
    bound()
    for how in ("gzip", "bzip2", "lzma"):
        assert "bounded" in compression.get_decoder(how).__qualname__
