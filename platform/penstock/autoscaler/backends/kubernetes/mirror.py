"""What the cluster has of our Jobs and pods, kept by watching it.

::

    list --> all of it --> watch from there --> each change

From the start again once a minute, and whenever the watch breaks. A thread of its own runs both watches. Whoever reads
gets a copy of one moment, and how old it is. A list that is older than what is known already (a server that has fallen
behind gives one) changes nothing.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Generic, TypeVar, cast

import structlog
from lightkube import AsyncClient
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod as ApiPod

from penstock.autoscaler.backends.kubernetes.api import FAILURES, ClusterUnavailable, unavailable
from penstock.autoscaler.backends.kubernetes.manifest import FLEET
from penstock.autoscaler.backends.kubernetes.seen import Made, Pod, Seen, read_job, read_pod
from penstock.clock import monotonic_s

#: A watch is begun anew after so long: a half-open connection is as silent as a cluster in which nothing happens.
WATCH_S = 60.0
#: First and longest pause after a failure, seconds.
PAUSE_FIRST_S, PAUSE_LONGEST_S = 0.2, 10.0
#: After so many lists in a row that are older than what is known, it is the cluster that was put back.
BELIEVE_AFTER = 20
#: Objects in one answer to a list.
CHUNK = 500

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Table(Generic[T]):
    """The objects of one kind by name, and the newest version that was seen of any."""

    def __init__(self, resource: Any, read: Callable[[Any], T | None]) -> None:
        self.resource = resource
        self.objects: dict[str, T] = {}
        #: By our monotonic clock; ``None`` before the first list.
        self.seen_at: float | None = None
        self.problem: ClusterUnavailable | None = None
        self._read = read
        self._version = 0
        self._disbelieved = 0

    def take_all(self, found: list[Any], version: str | None, now: float) -> bool:
        """A list; ``False`` if it is older than what is known."""
        number = _number(version)
        if number < self._version and self._disbelieved < BELIEVE_AFTER:
            self._disbelieved += 1
            return False
        self._disbelieved, self._version, self.seen_at, self.problem = 0, number, now, None
        read = {each.metadata.name: self._read(each) for each in found}
        self.objects = {name: known for name, known in read.items() if known is not None}
        return True

    def take(self, change: str, found: Any, now: float | None) -> None:
        """One change, or with ``now=None`` what a call of our own has answered."""
        self._version = max(self._version, _number(found.metadata.resourceVersion))
        known = None if change == "DELETED" else self._read(found)
        if known is None:
            self.objects.pop(found.metadata.name, None)
        else:
            self.objects[found.metadata.name] = known
        self.seen_at = self.seen_at if now is None else now


class Mirror:
    """Follows Jobs and pods with the label of one fleet, from ``start`` to ``stop``."""

    name = "penstock-kubernetes"

    def __init__(
        self, connect: Callable[[], AsyncClient], *, fleet: str, clock: Callable[[], float] = monotonic_s
    ) -> None:
        self._connect = connect
        self._labels: dict[str, Any] = {FLEET: fleet}
        self._clock = clock
        self._jobs: Table[Made] = Table(Job, read_job)
        self._pods: Table[Pod] = Table(ApiPod, read_pod)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether it follows."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has ended. May be called twice, and without a start."""
        with self._changed:
            self._stopping = True
            if self._loop is not None and self._task is not None:
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread is not None:
            self._thread.join()

    def seen(self, wait_s: float = 0.0) -> tuple[Seen, float]:
        """What is known, and how old the older half of it is, seconds.

        Waits so long for the first lists. Raises ``ClusterUnavailable`` if there is none.
        """
        tables: tuple[Table[Any], ...] = (self._jobs, self._pods)
        with self._changed:
            self._changed.wait_for(lambda: all(table.seen_at is not None for table in tables), wait_s)
            times = [table.seen_at for table in tables if table.seen_at is not None]
            if len(times) < len(tables):
                problem = self._jobs.problem or self._pods.problem
                raise problem or ClusterUnavailable("Kubernetes was not heard of yet")
            return Seen(dict(self._jobs.objects), dict(self._pods.objects)), self._clock() - min(times)

    def problem(self) -> ClusterUnavailable | None:
        """What is wrong with the watches at present."""
        with self._changed:
            return self._jobs.problem or self._pods.problem

    def note(self, found: Job | ApiPod) -> None:
        """What a call of our own has answered with: it is known before the watch tells."""
        with self._changed:
            table: Table[Any] = self._jobs if isinstance(found, Job) else self._pods
            table.take("ADDED", found, None)

    def forget(self, name: str) -> None:
        """A Job that a call of our own did not find."""
        with self._changed:
            self._jobs.objects.pop(name, None)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException:  # a defect: whoever reads starts it again
            log.exception("following ended", action="kubernetes.follow_ended")

    async def _main(self) -> None:
        with self._changed:
            self._loop, self._task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
            if self._stopping:
                return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(self._jobs))
                group.create_task(self._follow(self._pods))
        finally:
            with self._changed:
                self._loop = self._task = None

    async def _follow(self, table: Table[Any]) -> None:
        failures = 0
        while not self._stopping:
            began = self._clock()
            problem = None
            try:
                # A client for each round: a watch that broke keeps its connection.
                async with self._connect() as client, asyncio.timeout(WATCH_S):
                    await self._once(client, table)
            except TimeoutError:
                pass
            except Exception as error:
                if not isinstance(error, FAILURES):  # a defect: say so and go on, since the fleet depends on it
                    log.exception("following failed", action="kubernetes.follow_failed")
                problem = unavailable(error)
            failures = 0 if problem is None or self._clock() - began > PAUSE_LONGEST_S else failures + 1
            if problem is not None:
                with self._changed:
                    table.problem = problem
                await asyncio.sleep(problem.retry_after or _pause_s(failures))

    async def _once(self, client: AsyncClient, table: Table[Any]) -> None:
        listed = client.list(table.resource, labels=self._labels, chunk_size=CHUNK)
        found = [each async for each in listed]
        with self._changed:
            fresh = table.take_all(found, listed.resourceVersion, self._clock())
            self._changed.notify_all()
        if not fresh:
            raise ValueError("the server is behind: its list is older than what is known")
        changes = client.watch(
            table.resource, labels=self._labels, resource_version=listed.resourceVersion, server_timeout=int(WATCH_S)
        )
        async with aclosing(cast("AsyncIterator[tuple[str, Any]]", changes)) as following:  # type: ignore[type-var]
            async for change, each in following:
                with self._changed:
                    table.take(change, each, self._clock())
                    self._changed.notify_all()


def _pause_s(failures: int) -> float:
    longest = min(PAUSE_LONGEST_S, PAUSE_FIRST_S * 2 ** min(failures, 10))
    return random.uniform(longest / 2, longest)


def _number(version: str | None) -> int:
    """Versions of one kind can be compared since Kubernetes 1.35 says so, and always could."""
    return int(version) if version is not None and version.isdecimal() else 0
