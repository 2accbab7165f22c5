"""The claim protocol: a consumer's side of it, without kombu.

A consumer claims messages, which moves them from their queues into a hash of its own, and holds them until it
acknowledges them or gives them back. It lives as long as its lease, which each claim and each ``refresh`` renews; when
the lease ends, anybody may put its messages back (``restore_expired``). At no instant is a message in neither place.

What is promised: a message is delivered again until it is acknowledged. What is not: that it is delivered only once,
and that a consumer that was thought dead stops working. SQL guards against both.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import redis

from penstock.transport import keys
from penstock.transport.scripts import CLAIM, GIVE_BACK, RESTORE, SETTLE
from penstock.transport.wire import Arg, Wire

#: How long a silent consumer keeps its messages by default, seconds.
LEASE_S = 30.0

#: Most messages that one call of a script moves: it bounds how long it keeps Redis from other clients.
CHUNK = 1000

#: The least that a job is charged, device seconds: who is charged nothing would always be next.
LEAST_CHARGE_S = 1e-6

#: Appended to a restored message, before its closing brace.
REDELIVERED = ',"redelivered":true'


#: Where no queue has a second one beside it.
NO_TWINS: Mapping[str, str] = MappingProxyType({})


class LeaseLost(Exception):
    """The consumer was thought dead, or Redis lost its data: whatever it had claimed is not its own any more."""


class Claimed(NamedTuple):
    """One claimed message, as it stood in its list."""

    tag: int
    raw: bytes
    #: Whether its tenant was charged for it, by a guess: whoever knows the device time should ``settle`` it.
    charged: bool = False


class _Identity:
    """As whom messages are claimed: replaced as a whole when it is lost, so that threads never mix two."""

    __slots__ = ("joined", "name", "started", "unacked")

    def __init__(self, namespace: str) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self.unacked = keys.unacked(namespace, self.name)
        self.started = False
        self.joined = False


class Pending:
    """A claim that is sent by the caller: ``arguments`` for the claim script, and the reading of its answer."""

    __slots__ = ("_identity", "arguments", "consumer", "quotas")

    def __init__(self, identity: _Identity, quotas: Mapping[str, int], arguments: tuple[list[Arg], list[Arg]]) -> None:
        self._identity = identity
        self.consumer = identity.name
        self.quotas = quotas
        self.arguments = arguments

    def read(self, answer: Any) -> dict[str, list[Claimed]]:
        """The claim script's answer as messages per queue. Raises ``LeaseLost``."""
        if answer == -1:
            raise LeaseLost(self.consumer)
        self._identity.joined = True
        claimed: dict[str, list[Claimed]] = {}
        if answer == 0:
            return claimed
        tag, sizes, blob = answer
        counts, _, lengths = sizes.partition(b";")
        rest = iter(lengths.split(b","))
        start = 0
        for queue, count in zip(self.quotas, counts.split(b","), strict=True):
            if count == b"0":
                continue
            messages = claimed[queue] = []
            for part in count.split(b"+"):
                charged = part.endswith(b"f")
                for _ in range(int(part[:-1] if charged else part)):
                    end = start + int(next(rest))
                    messages.append(Claimed(tag, blob[start:end], charged))
                    start, tag = end, tag + 1
            if not messages:
                del claimed[queue]
        return claimed


class Claims:
    """One consumer's claims, one consumer after the other. Thread-safe.

    No call is repeated when its connection is lost: a claim whose answer was lost has taken messages whose tags nobody
    knows. After such an error, ``renew``, and ``surrender`` the old consumer.
    """

    def __init__(self, client: redis.Redis, namespace: str, *, lease_s: float = LEASE_S) -> None:
        self.client = client
        self.wire = Wire(client)
        self.namespace = namespace
        self.lease_s = lease_s
        self._tenants = keys.tenants(namespace)
        self._queue_keys: dict[str, tuple[str, ...]] = {}
        self._identity = _Identity(namespace)

    @property
    def consumer(self) -> str:
        """The name under which messages are claimed now."""
        return self._identity.name

    @property
    def started(self) -> bool:
        """Whether a claim was sent, answered or not: then this consumer may hold something."""
        return self._identity.started

    def renew(self) -> None:
        """Go on as a new consumer that holds nothing."""
        self._identity = _Identity(self.namespace)

    # Claiming -------------------------------------------------------------------------------------------------

    def claim(
        self,
        quotas: Mapping[str, int],
        *,
        acks: Sequence[int] = (),
        limit: int | None = None,
        charges: Mapping[str, float] | None = None,
        one_of: Collection[str] = (),
        twins: Mapping[str, str] = NO_TWINS,
    ) -> dict[str, list[Claimed]]:
        """Acknowledge ``acks`` and take up to ``quotas[queue]`` messages per queue, in the order of the mapping.

        Within a queue the tenant that has had the least goes first (``penstock.policy.fairness``), within a tenant
        higher priorities, then older messages. ``charges[queue]`` is the device time that one job is expected to
        take, seconds; where it is unknown every job counts 1. Queues with nothing are absent from the answer.
        ``limit`` bounds the sum. Of the queues ``one_of`` only that one is taken from whose head has waited longest.
        A queue's twin shares its quota, and its place in the answer; of the two, the one whose head has waited longer
        goes first. Raises ``LeaseLost``.
        """
        pending = self.prepare(quotas, acks=acks, limit=limit, charges=charges, one_of=one_of, twins=twins)
        return pending.read(CLAIM(self.wire, *pending.arguments))

    def prepare(
        self,
        quotas: Mapping[str, int],
        *,
        acks: Sequence[int] = (),
        limit: int | None = None,
        charges: Mapping[str, float] | None = None,
        one_of: Collection[str] = (),
        twins: Mapping[str, str] = NO_TWINS,
    ) -> Pending:
        """A claim for callers who send it themselves."""
        identity = self._identity
        identity.started = True
        names: list[Arg] = [keys.consumers(self.namespace), identity.unacked, keys.tags(self.namespace)]
        for queue in quotas:
            names += self._queue_keys.get(queue) or self._keys_of(queue)
        paired = ""
        if twins:
            paired = "".join("01"[queue in twins] for queue in quotas)
            for queue in quotas:
                if (twin := twins.get(queue)) is not None:
                    names += self._queue_keys.get(twin) or self._keys_of(twin)
        args: list[Arg] = [
            identity.name,
            self.lease_s,
            0 if identity.joined else 1,
            sum(quotas.values()) if limit is None else limit,
            len(keys.SERVED_STEPS),
            keys.BELL_TTL_S,
            self._tenants,
            "".join("01"[queue in one_of] for queue in quotas) if one_of else "",
            paired,
            len(acks),
            *acks,
            *quotas.values(),
        ]
        if charges:
            args += [max(charges.get(queue, 1.0), LEAST_CHARGE_S) for queue in quotas]
        return Pending(identity, quotas, (names, args))

    def _keys_of(self, queue: str) -> tuple[str, ...]:
        names = self._queue_keys[queue] = (keys.bell(self.namespace, queue), *keys.list_keys(queue))
        return names

    # Afterwards -----------------------------------------------------------------------------------------------

    def ack(self, tags: Sequence[int]) -> None:
        """Forget messages for good. Raises ``LeaseLost``."""
        self.claim({}, acks=tags)

    def settle(self, spent: Mapping[int, float]) -> int:
        """Acknowledge messages by tag with the device seconds that each took, 0 if it did not run.

        Its tenant is charged what the claim's guess left out. How many were held; may be repeated.
        """
        return int(SETTLE(self.wire, *settle_arguments(self.namespace, self._identity.unacked, spent)))

    def give_back(self, tags: Iterable[int], *, redelivered: bool = False) -> int:
        """Put messages back at the head of their queues, in their original order, at once. How many were held.

        ``redelivered`` marks them, as a broker does with what a consumer had been given.
        """
        unacked = self._identity.unacked
        newest_first = sorted(tags, reverse=True)
        moved = 0
        for start in range(0, len(newest_first), CHUNK):
            moved += int(
                GIVE_BACK(
                    self.wire,
                    [unacked],
                    [
                        keys.bell_prefix(self.namespace),
                        self._tenants,
                        keys.BELL_TTL_S,
                        REDELIVERED if redelivered else "",
                        *newest_first[start : start + CHUNK],
                    ],
                )
            )
        return moved

    def refresh(self) -> None:
        """Renew the lease. Raises ``LeaseLost``. Does nothing before the first claim."""
        if self._identity.joined:
            self.claim({})

    def leave(self) -> int:
        """Give back everything and end the lease. How many messages were still held."""
        moved = surrender(self.client, self.namespace, self.consumer)
        self.renew()
        return moved


def settle_arguments(namespace: str, unacked: str, spent: Mapping[int, float]) -> tuple[list[Arg], list[Arg]]:
    """Keys and arguments of the script ``SETTLE``, for callers who send it themselves."""
    pairs: list[Arg] = [part for pair in spent.items() for part in pair]
    return [unacked], [keys.tenants(namespace), keys.bell_prefix(namespace), keys.BELL_TTL_S, *pairs]


def surrender(client: redis.Redis, namespace: str, consumer: str) -> int:
    """Give back, unmarked, what a consumer holds that is known to be gone, and end its lease. How many it held."""
    total, more, name = 0, True, consumer
    while more:
        moved, _ = _restore(client, namespace, consumer=name, mark="")
        total += moved
        more = moved == CHUNK
        name = f"{consumer}!lost"  # where the script puts what one call cannot move
    return total


def restore_expired(client: redis.Redis, namespace: str, *, calls: int = 100) -> int:
    """Put back what consumers held whose lease has ended. Anybody may call it, many at a time. How many messages."""
    total = 0
    for _ in range(calls):
        moved, more = _restore(client, namespace, consumer="", mark=REDELIVERED)
        total += moved
        if not more:
            break
    return total


def _restore(client: redis.Redis, namespace: str, *, consumer: str, mark: str) -> tuple[int, bool]:
    moved, more = RESTORE(
        Wire(client),
        [keys.consumers(namespace)],
        [
            keys.unacked_prefix(namespace),
            keys.bell_prefix(namespace),
            keys.tenants(namespace),
            keys.BELL_TTL_S,
            CHUNK,
            consumer,
            mark,
        ],
    )
    return int(moved), bool(more)
