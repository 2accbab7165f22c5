"""The delivery loop: takes due deliveries from SQL, posts them, records how it went.

Runs on an event loop in a thread of its own, so that a thousand waits cost nothing to anybody else. A delivery is
leased while it is tried; after a crash between the POST and the record the lease runs out and it is delivered again:
at least once, with the same ``webhook-id``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import structlog

from penstock import clock
from penstock.errors import StoreUnavailable
from penstock.policy.retry import (
    WEBHOOK_SCHEDULE_S,
    Judgement,
    Verdict,
    judge_delivery,
    parse_retry_after,
)
from penstock.service import ThreadService, turned
from penstock.settings import WebhookSettings
from penstock.telemetry.reach import Reach
from penstock.webhooks.guard import Resolve
from penstock.webhooks.sender import Answer, Sender
from penstock.webhooks.signing import Signer
from penstock.webhooks.slots import Slots

if TYPE_CHECKING:
    from penstock.store import Delivery, Store

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: How long `stop` waits for deliveries in flight before it cuts them off (they are delivered again), seconds.
STOP_GRACE_S = 5.0


class Deliverer(ThreadService):
    """Delivers until stopped. Several may run against one database: leases keep them apart."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        settings: WebhookSettings,
        *,
        poll_s: float = 0.5,
        schedule_s: Sequence[float] = WEBHOOK_SCHEDULE_S,
        rng: Random | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        super().__init__("webhooks")
        self._store = store
        self._signer = signer
        self._settings = settings
        self._poll_s = poll_s
        self._schedule_s = schedule_s
        self._rng = rng or Random()
        self._resolve = resolve
        # Long enough to wait for one slow predecessor at the same host, be tried, and be recorded.
        self._lease_s = 3 * settings.timeout_s + 10.0
        self._slots = Slots(total=settings.concurrency, per_host=settings.per_host)
        #: Taken from SQL beyond what its host has room for, in order, with the end of its lease.
        self._waiting: dict[str, deque[tuple[Delivery, float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._database = Reach("database", service="webhooks")

    # Service ----------------------------------------------------------------------------------------------------

    def stop(self, timeout_s: float | None = None) -> bool:
        """Take nothing new, give what is in flight a few seconds, and return."""
        return super().stop(timeout_s)

    def wake(self) -> None:
        """Look for due deliveries now. May be called from any thread."""
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with suppress(RuntimeError):  # the loop closed between the look and the call
                loop.call_soon_threadsafe(wake.set)

    def run(self) -> None:
        """Deliver, on an event loop of its own."""
        with asyncio.Runner() as runner, ThreadPoolExecutor(1, thread_name_prefix="penstock-webhooks-sql") as sql:
            self._sql = sql
            while not self.stopping.is_set():
                try:
                    runner.run(self._run())
                except Exception:  # a defect: say so and go on, since deliveries must not end with it
                    log.exception("webhook loop broke off", action="webhooks_broke_off")
                    self.pause(self._poll_s)

    # The loop ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        sender = Sender(self._settings, resolve=self._resolve)
        try:
            while not self.stopping.is_set():
                turned()
                # Cleared before looking: what becomes due during the look is seen by the next one.
                self._wake.clear()
                more = await self._take()
                self._launch(sender)
                if not more:
                    await self._sleep(self._poll_s)
            await self._finish()
        finally:
            self._loop = None
            await sender.aclose()

    async def _take(self) -> bool:
        """Lease what is due, fairly between hosts; whether there may be more that could start now."""
        limit = self._slots.free
        if limit == 0:
            return False
        exclude = [*dict.fromkeys([*self._slots.full(), *self._waiting])]
        now = clock.now()
        try:
            taken = await self._in_sql(
                self._store.take_deliveries,
                now=now,
                limit=limit,
                lease_s=self._lease_s,
                per_host=self._settings.per_host,
                exclude_hosts=exclude,
            )
        except StoreUnavailable as error:
            self._database.lost(error)
            return False
        self._database.found()
        for delivery in taken:
            self._waiting.setdefault(delivery.host, deque()).append((delivery, now + self._lease_s))
        return len(taken) == limit

    def _launch(self, sender: Sender) -> None:
        for host in list(self._waiting):
            line = self._waiting[host]
            while line and self._slots.acquire(host):
                delivery, lease_until = line.popleft()
                task = asyncio.create_task(self._deliver(sender, delivery, host, lease_until))
                self._tasks.add(task)
                task.add_done_callback(self._forget)
            if not line:
                del self._waiting[host]

    async def _deliver(self, sender: Sender, delivery: Delivery, host: str, lease_until: float) -> None:
        answered: bool | None = None
        try:
            now = clock.now()
            if now + self._settings.timeout_s >= lease_until:
                return  # it waited too long for its host: another turn comes when the lease is over
            headers = self._signer.sign(delivery.id, delivery.payload, at=now)
            answer = await sender.post(delivery.url, delivery.payload, headers)
            answered = answer.status is not None and answer.status < 500
            judgement = self._judge(delivery, answer)
            self._report(delivery, answer, judgement)
            if judgement.verdict is Verdict.GONE:
                self._drop_waiting(delivery)
            await self._record(delivery, answer, judgement, lease_until)
        finally:
            self._slots.release(host, answered=answered)
            assert self._wake is not None
            self._wake.set()

    def _drop_waiting(self, gone: Delivery) -> None:
        """Deliveries that were taken before their URL answered 410; SQL has ended them."""
        line = self._waiting.get(gone.host)
        if line is not None:
            self._waiting[gone.host] = deque(entry for entry in line if entry[0].url != gone.url)

    def _judge(self, delivery: Delivery, answer: Answer) -> Judgement:
        now = clock.now()
        return judge_delivery(
            attempts=delivery.attempts + 1,
            status=answer.status,
            refused=answer.refused,
            retry_after_s=parse_retry_after(answer.retry_after, now=now),
            now=now,
            rng=self._rng,
            schedule_s=self._schedule_s,
        )

    async def _record(self, delivery: Delivery, answer: Answer, judgement: Judgement, lease_until: float) -> None:
        """Store the outcome, again and again while the lease lasts: each failure to do so costs a duplicate."""
        while True:
            try:
                await self._in_sql(
                    self._store.record_delivery,
                    delivery.id,
                    now=clock.now(),
                    outcome=judgement.verdict,
                    next_at=judgement.next_at,
                    status_code=answer.status,
                    error=answer.error,
                )
                return
            except StoreUnavailable as error:
                self._database.lost(error)
                if self.stopping.is_set() or clock.now() >= lease_until:
                    return
                await asyncio.sleep(self._poll_s)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery broke off", action="webhook_broke_off", exc_info=error)

    async def _finish(self) -> None:
        await self._give_back()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _give_back(self) -> None:
        """What waits for its host's turn need not wait for our lease's end, too."""
        pairs = [(delivery.id, lease_until) for line in self._waiting.values() for delivery, lease_until in line]
        self._waiting.clear()
        try:
            await self._in_sql(self._store.release_deliveries, pairs)
        except StoreUnavailable as error:
            log.debug("leases were not given back", action="webhooks_kept", error=error.message)

    # Helpers ----------------------------------------------------------------------------------------------------

    async def _in_sql(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._sql, lambda: call(*args, **kwargs))

    async def _sleep(self, seconds: float) -> None:
        assert self._wake is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _report(self, delivery: Delivery, answer: Answer, judgement: Judgement) -> None:
        # The host, not the URL: its path or query often carries a token.
        fields = {
            "delivery_id": delivery.id,
            "job_id": delivery.job_id,
            "host": delivery.host,
            "attempt": delivery.attempts + 1,
            "status": answer.status,
        }
        if judgement.verdict is Verdict.DELIVERED:
            log.info("webhook delivered", action="webhook_delivered", **fields)
        elif judgement.verdict is Verdict.RETRY:
            log.info(
                "webhook failed, will be tried again",
                action="webhook_retry",
                error=answer.error,
                next_at=clock.isoformat(judgement.next_at),
                **fields,
            )
        else:
            log.warning("webhook given up", action=f"webhook_{judgement.verdict}", error=answer.error, **fields)
