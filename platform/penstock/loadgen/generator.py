"""The open-loop generator: submits at the intended times, whatever happens to what it has submitted.

One event loop in a process of its own. Times are computed before the start; what is due in one turn of the loop is
submitted in that turn, and the client commits it as one group. The generator measures its own lag, from the intended
time to the moment in which the client was called: a run that lagged is void (``tally.MOST_LAG_S``).
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from penstock.client import AsyncClient
from penstock.clock import monotonic_s
from penstock.errors import JobExpired, JobUnsuccessful, Overloaded, PenstockError, ResultTimeout
from penstock.loadgen import tally
from penstock.loadgen.arrivals import Arrival
from penstock.loadgen.tally import Fate, Sample
from penstock.settings import Settings

T = TypeVar("T")

#: Priority of the thread that keeps the time, where the system allows it.
NICE = -10

#: Rows read from SQL at a time after a run.
READ = 500
#: Longest wait for a warm-up's result, seconds.
WARM_S = 60.0
#: From the last preparation to the first intended time, seconds.
LEAD_IN_S = 0.1
#: Another thread of this process (one that commits) keeps the interpreter at most so long before the loop may have it,
#: seconds. The default, 5 ms, is more than the lag that is allowed.
SWITCH_S = 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run.

    ``make_input`` gives a request's input, by its number and arrival. ``check`` tells whether an output is the right
    one for an input. After the last intended time the run waits ``grace_s`` at most for results; what has none by then
    is ``unfinished``.
    """

    model: str
    arrivals: Sequence[Arrival]
    duration_s: float
    make_input: Callable[[int, Arrival], Any]
    check: Callable[[Any, Any], bool] = lambda input, output: True
    grace_s: float = 10.0
    warm: int = 20
    tags: dict[str, str] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured, before it is counted."""

    samples: list[Sample]
    lags_s: list[float]


def measure(settings: Settings, plan: Plan) -> Run:
    """Carry the plan out on a loop of its own.

    Raises what the warm-up raises: a system that cannot answer one job is not measured.
    """
    with _undisturbed():
        return _run_precise(_offer(settings, plan))


async def offer(client: AsyncClient, plan: Plan) -> Run:
    """Carry the plan out with an open client; for those who have a loop already and look after its precision."""
    await _warm(client, plan)
    inputs = [plan.make_input(number, arrival) for number, arrival in enumerate(plan.arrivals)]
    samples = [Sample(a.at_s, a.lane, a.tenant, a.cost, a.model or plan.model) for a in plan.arrivals]
    lags: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    shared = {**plan.options, **({"tags": plan.tags} if plan.tags else {})}
    loop = asyncio.get_running_loop()
    gc.collect()
    gc.freeze()
    start = monotonic_s() + LEAD_IN_S
    number, count = 0, len(samples)
    with _first():
        while number < count:
            wait_s = start + samples[number].at_s - monotonic_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            now = monotonic_s()
            while number < count and (intended := start + samples[number].at_s) <= now:
                arrival = plan.arrivals[number]
                work = _one(client, plan, arrival, inputs[number], samples[number], intended, lags, shared)
                task = loop.create_task(work)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
    # What is late beyond the end is waited for a while, since it tells how late it was.
    rest_s = max(0.0, start + plan.duration_s - monotonic_s()) + plan.grace_s
    if tasks:
        _, open_ = await asyncio.wait(tasks, timeout=rest_s)
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
    return Run(samples, lags)


async def _one(
    client: AsyncClient,
    plan: Plan,
    arrival: Arrival,
    input: Any,
    sample: Sample,
    intended: float,
    lags: list[float],
    shared: dict[str, Any],
) -> None:
    lags.append(monotonic_s() - intended)
    try:
        job = await client.enqueue(
            sample.model,
            input,
            lane=arrival.lane,
            tenant=arrival.tenant,
            **(shared if arrival.deadline_s is None else {**shared, "deadline": arrival.deadline_s}),
        )
        sample.id = job.id
        sample.answer_s = monotonic_s() - intended
        output = await job.result()
        sample.latency_s = monotonic_s() - intended
        sample.fate = Fate.OK if plan.check(input, output) else Fate.WRONG
    except Overloaded as error:
        sample.answer_s = sample.latency_s = monotonic_s() - intended
        sample.fate, sample.error = Fate.REFUSED, error.code
    except ResultTimeout:
        pass
    except PenstockError as error:
        sample.latency_s = monotonic_s() - intended
        sample.fate = Fate.EXPIRED if isinstance(error, JobExpired) else Fate.FAILED
        sample.error = error.code


async def _warm(client: AsyncClient, plan: Plan) -> None:
    """Connections, the subscription, imports: paid for before the first measured request."""
    if not plan.arrivals:
        return

    async def one(arrival: Arrival) -> None:
        input = plan.make_input(0, arrival)
        # A job that fails, or is refused, was answered: it is the run that counts them.
        with suppress(JobUnsuccessful, Overloaded):
            await client.run(
                arrival.model or plan.model,
                input,
                lane=arrival.lane,
                tenant=arrival.tenant,
                result_timeout=WARM_S,
                **plan.options,
            )

    # Every model once, then some more of the first, so that the client's paths are warm as well.
    firsts = {arrival.model: arrival for arrival in reversed(plan.arrivals)}
    for arrival in firsts.values():
        await one(arrival)
    await asyncio.gather(*(one(plan.arrivals[0]) for _ in range(plan.warm)))


async def _offer(settings: Settings, plan: Plan) -> Run:
    async with AsyncClient(settings) as client:
        return await offer(client, plan)


def batches_of(settings: Settings, samples: Sequence[Sample]) -> dict[str, Any]:
    """Batch sizes and reasons, by lane and over all, as the job rows have them."""
    from penstock.store import Store

    lanes: dict[str, list[tuple[int | None, str | None]]] = {}
    known = {sample.id: sample.lane for sample in samples if sample.id is not None}
    store = Store.open(settings.database)
    try:
        ids = list(known)
        for first in range(0, len(ids), READ):
            for id, job in store.get_many(ids[first : first + READ]).items():
                lanes.setdefault(known[id], []).append((job.batch_size, job.batch_reason))
    finally:
        store.close()
    every = [row for rows in lanes.values() for row in rows]
    return {"all": tally.batches(every), **{lane: tally.batches(rows) for lane, rows in sorted(lanes.items())}}


def _run_precise(work: Coroutine[Any, Any, T]) -> T:
    # epoll counts in milliseconds, and asyncio rounds up to them: select counts in microseconds. It serves a thousand
    # descriptors, of which we have a handful.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(work)


@contextmanager
def _first() -> Iterator[None]:
    """Where it may, this thread goes before others on a busy machine: what is sent late says nothing of the system.

    The client's threads were started before, by the warm-up, and stay as they are.
    """
    me, nice = threading.get_native_id(), None
    with suppress(OSError, AttributeError):
        nice = os.getpriority(os.PRIO_PROCESS, me)
        os.setpriority(os.PRIO_PROCESS, me, NICE)
    try:
        yield
    finally:
        if nice is not None:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, me, nice)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection during the run (a full one takes tens of milliseconds), and quick changes of thread."""
    switch_s, collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(SWITCH_S)
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(switch_s)
        if collecting:
            gc.enable()
