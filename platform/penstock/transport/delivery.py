"""From claimed messages to whoever takes them: the sink, or kombu's consumers."""

# The published type stubs know little of what is inside kombu's Redis transport.
# mypy: disable-error-code="attr-defined, union-attr, operator"

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from penstock.errors import safe_text
from penstock.lane import is_model_queue
from penstock.transport import keys
from penstock.transport.claims import Claimed, Claims
from penstock.transport.lined import stray
from penstock.transport.message import Envelope, decode
from penstock.transport.readable import Unreadable, payload_of, while_reading
from penstock.transport.refusals import Refused
from penstock.transport.wire import pack

if TYPE_CHECKING:
    from penstock.transport.channel import BulkChannel

log = logging.getLogger(__name__)

#: Messages kept of those that cannot be read, and how much of each, bytes.
DEAD_MAX, DEAD_BYTES = 1000, 256 * 1024


class Sink(Protocol):
    """Who takes plain jobs from a channel: the worker's batcher. Called in the event loop's thread only."""

    def quota(self) -> Mapping[str, int]:
        """How many more jobs of each queue are wanted now, in the order of service. Quotas are independent."""

    def take(self, queue: str, envelopes: list[Envelope]) -> None:
        """Receive claimed jobs. Each must be acknowledged or given back by its ``tag``."""

    # Optional: def charges(self) -> Mapping[str, float], the device seconds that one job of each queue is expected to
    # take, by which tenants are charged at the claim. Without it every job counts 1.

    # Optional: one_of: frozenset[str], queues of which one claim is to bring messages of one at most.

    # Optional: twins: Mapping[str, str], by queue another one whose messages share its quota and come under its name.

    def lost(self) -> None:
        """All tags taken so far are void: the messages will be delivered again, here or elsewhere.

        May be called when nothing was taken, and more than once.
        """


class Delivery:
    """Hands out one claim's messages. What an error keeps from being handed out is given back."""

    def __init__(self, channel: BulkChannel, sink: Sink | None) -> None:
        self._channel = channel
        self._sink = sink
        self._left: set[int] = set()
        #: Whether kombu's consumers were called.
        self.stirred = False

    def __call__(self, claimed: Mapping[str, Sequence[Claimed]]) -> None:
        """Deliver messages per queue, plain jobs of a queue before its other messages."""
        self._left = {message.tag for messages in claimed.values() for message in messages}
        try:
            for queue, messages in claimed.items():
                self._queue(queue, messages)
        except BaseException:
            self._channel.give_back(self._left)
            raise

    def _queue(self, queue: str, messages: Sequence[Claimed]) -> None:
        if queue not in self._channel.connection._callbacks:  # cancelled while the claim was on its way
            tags = {message.tag for message in messages}
            self._left -= tags
            self._channel.give_back(tags)
            return
        if self._sink is not None:
            messages = self._plain(self._sink, queue, messages)
        for message in messages:
            self._foreign(queue, message)

    def _plain(self, sink: Sink, queue: str, messages: Sequence[Claimed]) -> list[Claimed]:
        """Give the sink its jobs; the other messages are returned."""
        envelopes, others = [], []
        for message in messages:
            envelope = decode(message.raw)
            if envelope is None:
                others.append(message)
            else:
                envelope.tag, envelope.charged = message.tag, message.charged
                envelopes.append(envelope)
        if envelopes:
            sink.take(queue, envelopes)
            self._left.difference_update([envelope.tag for envelope in envelopes])
        return others

    def _foreign(self, queue: str, message: Claimed) -> None:
        channel = self._channel
        try:
            payload = payload_of(message.raw, message.tag)
        except Unreadable as error:
            self._left.discard(message.tag)
            channel.set_aside(message, error)
            return
        # Of a version's messages `queue` is that of all versions.
        own = payload["properties"].get("delivery_info", {}).get("routing_key")
        if self._sink is not None and stray(payload) and is_model_queue(own, channel.namespace):
            channel.line_up(own, payload, message)
            self._left.discard(message.tag)
            return
        self._left.discard(message.tag)
        if message.charged:
            payload["properties"].setdefault("delivery_info", {})["charged"] = True
        if queue in channel.no_ack_queues:
            channel.ack_many((message.tag,))
        self.stirred = True
        try:
            channel.connection._deliver(payload, queue)
        except Exception as error:
            if not while_reading(error):
                raise
            channel.set_aside(message, error)


def bury(claims: Claims, message: Claimed, error: BaseException | None = None) -> None:
    """Keep a message that cannot be read where it disturbs nobody."""
    log.critical("set aside a message that cannot be read (%.200s): %.200r", safe_text(error or "?"), message.raw)
    dead = keys.dead(claims.namespace)
    try:
        claims.wire([pack("LPUSH", dead, message.raw[:DEAD_BYTES]), pack("LTRIM", dead, 0, DEAD_MAX - 1)])
    except Refused as refused:
        if refused.code != "OOM":  # a full server is emptied by those who go on
            raise
        log.warning("it was not kept: %s", refused)
