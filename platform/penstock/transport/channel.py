"""A channel that claims: what our transport adds to kombu's ``Channel`` and ``QoS``. See ``redis`` for the whole.

A channel lives in turns of the event loop: ``turn`` claims what is wanted now and starts the idle wait,
``_brpop_read`` takes the wait's answer. Both end in a ``Delivery``.
"""

# The published type stubs know little of what is inside kombu's Redis transport, which this module extends.
# mypy: disable-error-code="attr-defined, has-type, misc, override, union-attr, arg-type, operator"

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty
from typing import Any, Protocol

import redis
from kombu.transport import redis as stock
from kombu.transport import virtual
from kombu.utils.json import dumps

from penstock.errors import ConfigError, safe_text
from penstock.job import DEFAULT_TENANT
from penstock.lane import is_model_queue
from penstock.transport import keys
from penstock.transport.claims import LEASE_S, NO_TWINS, Claimed, Claims, LeaseLost, Pending
from penstock.transport.delivery import Delivery, Sink, bury
from penstock.transport.demand import Demand, demand
from penstock.transport.inspect import purge, ready_messages
from penstock.transport.lease import LeaseKeeper, abandoned
from penstock.transport.lined import LINE, tenant_of
from penstock.transport.mend import mend, mended
from penstock.transport.publisher import RING_REPLIES, register, ring, ring_commands
from penstock.transport.readable import Unreadable, payload_of, while_reading
from penstock.transport.refusals import Refused, malformed, refusing
from penstock.transport.scripts import CLAIM
from penstock.transport.wire import Wire, pack

log = logging.getLogger(__name__)

#: Claims in one turn of the event loop before timers and other sockets get theirs.
CLAIMS_PER_TURN = 8

#: After a message of a producer that rings no bell, look for more of them this often and for so long, seconds.
WATCH_EVERY_S = 0.02
WATCH_FOR_S = 5.0

_Claimed = Mapping[str, Sequence[Claimed]]


class Waiter(Protocol):
    """Starts a channel's idle wait: the poller."""

    def start_wait(self, channel: BulkChannel) -> None:
        """Call the channel's ``_brpop_start`` and watch its connection."""


class QoS(stock.QoS):
    """kombu's book of the delivered messages. The claim has already noted them down in Redis."""

    channel: BulkChannel

    def append(self, message: Any, delivery_tag: Any) -> None:
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        self.channel.ack_many((delivery_tag,))
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        if requeue:
            self.channel.requeue(delivery_tag)
        else:
            self.channel.ack_many((delivery_tag,))
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        self._flush()
        if self._delivered:
            self.channel.give_back(tuple(self._delivered), redelivered=True)
            self._delivered.clear()

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """The lease keeper does this."""

    def release(self, delivery_tag: Any) -> None:
        """A message that was dealt with without kombu: it takes nobody's place any more."""
        if delivery_tag in self._delivered:
            virtual.QoS.ack(self, delivery_tag)

    def forget(self) -> None:
        """All delivered messages are somebody else's now."""
        self._delivered.clear()
        self._dirty.clear()


class BulkChannel(stock.Channel):
    """A claiming channel over either kind of connection."""

    QoS = QoS

    #: Prefix of our keys and queues.
    namespace = "penstock"
    #: How long this consumer may be silent before others take its messages, seconds.
    lease_s = LEASE_S
    #: Longest idle wait, seconds. The server looks at such timeouts ten times a second.
    idle_tick_s = 0.1

    # A dead connection must not hold the loop for long; kombu would wait forever.
    socket_timeout = 5.0
    socket_connect_timeout = 2.0
    socket_keepalive = True

    from_transport_options = (*stock.Channel.from_transport_options, "namespace", "lease_s", "idle_tick_s")

    _sink: Sink | None = None
    #: The sink's optional method of this name.
    _charges: Callable[[], Mapping[str, float]] = dict
    #: The sink's optional attributes of these names.
    _one_of: frozenset[str] = frozenset()
    _twins: Mapping[str, str] = NO_TWINS
    _claims: Claims | None = None
    _keeper: LeaseKeeper | None = None
    _commands: redis.Redis | None = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        if connection.client.transport_options.get("global_keyprefix"):
            raise ConfigError(
                "the transport option global_keyprefix cannot be used", fix="set PENSTOCK_NAMESPACE instead"
            )
        #: Queues whose consumers want no acknowledgement.
        self.no_ack_queues: set[str] = set()
        #: Acknowledgements that have not been sent.
        self._acks: deque[int] = deque()
        #: The claim behind the outstanding wait, and the demand it was made from.
        self._wait: Pending | None = None
        self._wait_demand = Demand({})
        #: Whether that wait was told to end.
        self._interrupted = False
        #: Queues that the last claim found empty.
        self._dry: frozenset[str] = frozenset()
        #: Who has lost its lease, as the keeper found.
        self._lost_consumer = ""
        self._watch_until = 0.0
        super().__init__(connection, **kwargs)

    # For the worker -------------------------------------------------------------------------------------------------

    def set_sink(self, sink: Sink | None) -> None:
        """From now on, plain jobs go to ``sink`` and its quotas decide what is claimed."""
        self._sink = sink
        self._charges = getattr(sink, "charges", dict)
        self._one_of = getattr(sink, "one_of", frozenset())
        self._twins = getattr(sink, "twins", NO_TWINS)

    def ack_many(self, tags: Iterable[int]) -> None:
        """Acknowledge messages: with the next claim, and at the latest at the end of this turn of the loop.

        May be called from any thread. Without an event loop they are sent at once.
        """
        self._acks.extend(tags)
        if self.connection is not None and not self.connection.wake_from_elsewhere():
            self.flush()

    def give_back(self, tags: Iterable[int], *, redelivered: bool = False) -> None:
        """Put claimed messages back at the head of their queues, in their original order, before returning.

        In the loop's thread only. Lower the sink's quota first, or this channel is the next to claim them.
        ``redelivered``: some consumer had been given them.
        """
        if self._claims is not None:
            # A wait that is out would claim them by the quotas of when it was sent.
            waited = self._end_wait()
            if redelivered and waited:  # these are newer, and nobody has seen them
                self._claims.give_back(waited)
                waited = []
            self._claims.give_back([*tags, *waited], redelivered=redelivered)

    def requeue(self, tag: int) -> None:
        """Put one message back at the head of its queue; this channel may well get it again. In any thread.

        It is marked as redelivered: who rejects what was refused once before does not go round for ever.
        """
        if self._claims is not None:
            self._claims.give_back((tag,), redelivered=True)

    @property
    def unacked_name(self) -> str:
        """The hash that holds what this consumer has claimed now: ``HDEL`` of a tag there acknowledges it."""
        return keys.unacked(self.namespace, self._consumer().consumer)

    def flush(self) -> None:
        """Send the acknowledgements that are waiting, now."""
        if self._acks and self._claims is not None:
            try:
                self._claims.ack(self._drain_acks())
            except LeaseLost:
                self._on_lost()

    def wake(self) -> None:
        """Make the event loop leave its poll and look at the quotas again. For other threads."""
        if self.connection is not None:
            self.connection.wake()

    def reconsider(self) -> None:
        """The sink wants nothing more of some queues, for a reason that no message has brought: a wait that is out
        would still claim of them. In the loop's thread only. What it has claimed by now is delivered."""
        if self._wait and not self._wait.quotas.keys() <= self._demand().quotas.keys():
            self._interrupt()

    # One turn of the loop -------------------------------------------------------------------------------------------

    def turn(self, waiter: Waiter) -> bool:
        """Before each poll: claim what is wanted, send what was acknowledged, and wait. Whether messages came."""
        self._check_consumer()
        came = stirred = False
        for _ in range(CLAIMS_PER_TURN):
            wanted = self._demand()
            open = wanted.without(self._dry.union(self._wait.quotas if self._wait else ()))
            if not open:
                break
            claimed = self._claim(open)
            stirred = self._deliver(claimed) or stirred
            came = came or bool(claimed)
        else:
            stirred = True  # there may be more; timers and other sockets have their turn first
        if stirred:
            # Celery puts off what follows a delivery, such as the acknowledgement of a task that the solo pool has run
            # by now, until the next turn: the poll between must not block.
            self.wake()
        self.flush()
        if wanted and not self._wait:
            waiter.start_wait(self)
        elif self._wait and not wanted.quotas.keys() <= self._wait.quotas.keys():
            self._interrupt()  # so that the next wait covers them too
        self._dry = frozenset()
        return came

    def _check_consumer(self) -> None:
        """Act on what was found since the last turn."""
        if self._claims is not None and self._lost_consumer == self._claims.consumer:
            self._on_lost()
        if self._wait and not self._in_poll:  # kombu found the connection dead, and closed it
            self._abandon()
            raise redis.ConnectionError("the connection that waited for messages was lost")

    def _demand(self) -> Demand:
        if getattr(self._sink, "parked", False):
            return Demand({})  # of no queue, also of those that the sink does not name
        active = self.active_queues
        return demand(
            active,
            self._sink.quota() if self._sink is not None else {},
            credit=self.qos.can_consume_max_estimate(),
            others=self._queue_cycle.consume(len(active)),
        )

    def _claim(self, wanted: Demand) -> _Claimed:
        try:
            claimed = self._consumer().claim(
                wanted.quotas,
                acks=self._drain_acks(),
                limit=wanted.limit,
                charges=self._charges(),
                one_of=self._one_of,
                twins=self._twins,
            )
        except LeaseLost:
            self._on_lost()
            return {}
        except self.connection_errors:
            self._abandon()
            raise
        self._dry = wanted.dry({queue: len(messages) for queue, messages in claimed.items()})
        return claimed

    def _deliver(self, claimed: _Claimed) -> bool:
        """Hand out messages; whether kombu's consumers were called."""
        delivery = Delivery(self, self._sink)
        delivery(claimed)
        return delivery.stirred

    # The idle wait --------------------------------------------------------------------------------------------------

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Send the wait on the bells, and a claim behind it (named by kombu's poller, which calls it)."""
        wanted = self._demand()
        if not wanted:
            return
        self._wait_demand = wanted
        self._wait = pending = self._consumer().prepare(
            wanted.quotas, limit=wanted.limit, charges=self._charges(), one_of=self._one_of, twins=self._twins
        )
        self._interrupted = False
        queues = [*wanted.quotas, *(self._twins[queue] for queue in wanted.quotas if queue in self._twins)]
        bells = [keys.bell(self.namespace, queue) for queue in queues]
        wait = pack("BLPOP", *bells, keys.own_bell(self.namespace, pending.consumer), self.idle_tick_s)
        self._in_poll = connection = self.client.connection
        self._brpop_sent_at = time.monotonic()
        connection.send_packed_command((wait + CLAIM.command(*pending.arguments),))

    def _brpop_read(self, **options: Any) -> bool:
        """Read the answers to the wait and its claim, and deliver. Raises ``Empty`` when nothing came."""
        rung, claimed = self._read_wait()
        if not claimed:
            raise Empty
        if not rung:
            self._watch_for_others()
        self._deliver(claimed)
        return True

    def _read_wait(self) -> tuple[bool, _Claimed]:
        """Whether a bell rang, and what the claim has brought."""
        connection, pending = self.client.connection, self._wait
        assert pending is not None
        try:
            rung = connection.read_response()
            answer = connection.read_response()
        except redis.exceptions.NoScriptError:  # the second answer: Redis was restarted or flushed
            CLAIM.load(self._consumer().wire)
            return True, {}
        except BaseException as error:  # whatever else is to be read on this connection, nobody will
            connection.disconnect()
            self._abandon()
            if malformed(error):
                mend(self._command_client(), self.namespace)
            raise
        finally:
            self._in_poll = self._wait = None
            self._flush_brpop_reauth()
        if pending.consumer != self._consumer().consumer:
            return True, {}  # claimed as somebody whom this channel has given up since
        try:
            claimed = pending.read(answer)
        except LeaseLost:
            self._on_lost()
            return True, {}
        self._dry = self._wait_demand.dry({queue: len(messages) for queue, messages in claimed.items()})
        return bool(rung), claimed

    def _poll_error(self, type: str, **options: Any) -> Any:
        return self._brpop_read() if type == "BRPOP" else super()._poll_error(type, **options)

    def _end_wait(self) -> list[int]:
        """End the outstanding wait, if any, and read its answer. The tags of what it had claimed."""
        if not self._wait:
            return []
        self._interrupt()
        _, claimed = self._read_wait()
        return [message.tag for messages in claimed.values() for message in messages]

    def _interrupt(self) -> None:
        """Let the outstanding wait end."""
        if self._wait and not self._interrupted:
            self._interrupted = True
            bell = keys.own_bell(self.namespace, self._wait.consumer)
            self._consumer().wire([ring(bell)], replies=RING_REPLIES)

    def _watch_for_others(self) -> None:
        """Somebody sends who rings no bell: look more often for a while."""
        if not self._watch_until:
            self.connection.call_later(WATCH_EVERY_S, self._watch)
        self._watch_until = time.monotonic() + WATCH_FOR_S

    def _watch(self) -> None:
        if self.connection is None or time.monotonic() > self._watch_until:
            self._watch_until = 0.0
            return
        self._interrupt()
        self.connection.call_later(WATCH_EVERY_S, self._watch)

    # What kombu asks of a channel -----------------------------------------------------------------------------------

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Claim one message now; ``None`` if there is none."""
        for message in self._claim(Demand({queue: 1})).get(queue, ()):
            try:
                python = self.Message(payload_of(message.raw, message.tag), channel=self)
            except Unreadable as error:
                self.set_aside(message, error)
                continue
            if no_ack:
                self.ack_many((message.tag,))
            else:
                self.qos.append(python, message.tag)
            return python
        return None

    def line_up(self, queue: str, message: dict[str, Any], claimed: Claimed) -> None:
        """Put a message into its tenant's list, and acknowledge the one that stood in another.

        A crash in between leaves both: two messages of one id are one job.
        """
        self._put(queue, message)
        if not claimed.charged:
            self.ack_many((claimed.tag,))
            return
        # Whose list it was has not had its turn.
        self._consumer().settle({claimed.tag: 0.0})

    def set_aside(self, message: Claimed, error: BaseException | None = None) -> None:
        """Take a message that cannot be read out of the queue."""
        bury(self._consumer(), message, error)
        self.ack_many((message.tag,))
        self.qos.release(message.tag)  # kombu may have counted it as delivered

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except Empty:
            raise
        except Exception as error:
            if not while_reading(error):
                raise
            # Broadcast: nobody has to acknowledge it, and nothing of ours depends on it.
            log.error("passed over a broadcast that cannot be read: %.200s", safe_text(error))
            return None

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        (self.no_ack_queues.add if no_ack else self.no_ack_queues.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        answer = super()._basic_cancel(consumer_tag)
        if self._wait and queue in self._wait.quotas and not self._closing:
            self._interrupt()
        return answer

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Push as kombu does, and ring the queue's bell. What names a tenant goes to its lists."""
        bell = keys.bell(self.namespace, queue)
        # Only workers of models know of tenants' lists.
        tenant = tenant_of(message) if is_model_queue(queue, self.namespace) else DEFAULT_TENANT
        batch = kwargs.get("_publish_batch")
        if tenant != DEFAULT_TENANT or (batch is None and queue not in self._expires):
            # With a tenant not in kombu's batch of several queues; its messages wait for nobody anyway.
            key = keys.list_key(queue, self._priority_of(message), tenant)
            if tenant != DEFAULT_TENANT:
                message["properties"][LINE] = tenant
            commands = [pack("LPUSH", key, dumps(message))]
            if tenant != DEFAULT_TENANT:
                commands.append(register(self.namespace, queue, [tenant]))
            replies = len(commands) + RING_REPLIES
            Wire(self._command_client(), self.namespace)([*commands, ring(bell)], replies=replies, retry=True)
            return
        mended(self._command_client(), self.namespace, lambda: super(BulkChannel, self)._put(queue, message, **kwargs))
        if batch is None:
            Wire(self._command_client(), self.namespace)([ring(bell)], replies=RING_REPLIES, retry=True)
            return
        for name, *args in ring_commands(bell):
            batch.add(str(name).lower(), *args)

    def _priority_of(self, message: dict[str, Any]) -> int:
        try:
            return int(self._get_message_priority(message))
        except (OverflowError, KeyError):  # infinity; none
            return 0

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        """Write down a binding, which only producers read. A full server refuses it, but can still be emptied."""
        try:
            super()._queue_bind(exchange, *args)
        except Refused as refused:
            if refused.code != "OOM":
                raise
            log.warning("the binding of a queue to %s was not written: %s", exchange, refused)

    def _size(self, queue: str) -> int:
        """Ready messages, all tenants'."""
        return sum(ready_messages(self._command_client(), self.namespace, [queue])[queue].values())

    def _purge(self, queue: str) -> int:
        return purge(self._command_client(), self.namespace, queue)

    # The consumer's life --------------------------------------------------------------------------------------------

    def _consumer(self) -> Claims:
        if self._claims is None:
            self._claims = Claims(self._command_client(), self.namespace, lease_s=self.lease_s)
            self._keeper = LeaseKeeper(self, self._claims)
            self._keeper.start()
        abandoned.surrender(self._broker, self.namespace, self._command_client())
        return self._claims

    @property
    def _broker(self) -> str:
        return str(self.connection.client.as_uri())

    def lease_lost(self, consumer: str) -> None:
        """Told by the lease keeper's thread; the loop acts on it."""
        self._lost_consumer = consumer
        self.wake()

    def _on_lost(self, why: str = "the lease on claimed messages was lost") -> None:
        """Forget all that was claimed and go on as a new consumer."""
        log.warning("%s: they are delivered again", why)
        if self._claims is not None:
            self._claims.renew()
        self._acks.clear()
        self._dry = frozenset()
        self._forget()

    def _abandon(self) -> None:
        """The answer to a claim was lost: this consumer holds messages under tags that nobody knows.

        It is given up with all it holds. The next channel of this process that reaches Redis, be it this one, gives
        the messages back; if none does, the lease's end will.
        """
        self._wait = None
        if self._claims is not None and self._claims.started:
            abandoned.add(self._broker, self.namespace, self._claims.consumer)
            self._on_lost("the connection was lost with claimed messages")

    def _forget(self) -> None:
        self.qos.forget()
        if self._sink is not None:
            self._sink.lost()

    def _drain_acks(self) -> list[int]:
        tags = []
        while True:
            try:
                tags.append(self._acks.popleft())
            except IndexError:
                return tags

    def close(self) -> None:
        """Give back at once everything that is claimed and not acknowledged, then close as kombu does."""
        if not self._closing:
            self._closing = True
            if self._claims is not None:
                self._leave(self._claims)
        super().close()

    def _leave(self, claims: Claims) -> None:
        if self._keeper is not None:
            self._keeper.stop()
        try:
            waited = self._end_wait()
            if self._acks:
                claims.ack(self._drain_acks())
            # What kombu's consumers were given is marked; what was only on its way is newer, and stays behind it.
            claims.give_back(waited)
            self.qos.restore_unacked()
            claims.leave()
            abandoned.surrender(self._broker, self.namespace, self._command_client())
        except LeaseLost:
            pass
        except (*self.connection_errors, redis.ResponseError):
            if claims.started:
                abandoned.add(self._broker, self.namespace, claims.consumer)
            if self._in_poll:
                self.client.connection.disconnect()
        finally:
            self._in_poll = self._wait = None
            self._forget()
            self._claims = None

    # Connections ----------------------------------------------------------------------------------------------------

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """What is refused for the time being (a failover, a full disk) is a lost connection, as kombu knows it."""
        params: dict[str, Any] = super()._connparams(asynchronous)
        return params | {"connection_class": refusing(params["connection_class"])}

    def _command_client(self) -> redis.Redis:
        if self._commands is None:
            self._commands = self._create_client()
        return self._commands

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """kombu builds a client object per operation; one does for all, since the pool is behind it."""
        yield client if client else self._command_client()

    def _disconnect_pools(self) -> None:
        self._commands = None
        super()._disconnect_pools()


class Channel(BulkChannel):
    """For ``redis://``, ``rediss://`` and ``redis+socket://``."""


class SentinelChannel(BulkChannel, stock.SentinelChannel):
    """For ``sentinel://``."""

    from_transport_options = (*stock.SentinelChannel.from_transport_options, "namespace", "lease_s", "idle_tick_s")
