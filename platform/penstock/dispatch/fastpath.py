"""The fast path: publish committed jobs at once, and never make a producer wait for a broker that is away."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from penstock import clock
from penstock.clock import monotonic_s
from penstock.dispatch.marks import Marks
from penstock.dispatch.tasks.sender import TaskSender, split
from penstock.errors import BrokerUnavailable, NamespaceTaken, StoreUnavailable
from penstock.job import Job, NewJob
from penstock.transport.publisher import Publisher

log = logging.getLogger(__name__)

#: After a failure nothing is published for so long, seconds; the dispatcher relays the jobs meanwhile.
PAUSE_S = 1.0
#: A broker that lets callers wait before it fails is left alone for this many times that wait, so that a producer
#: loses at most a fifth of its time to it.
PAUSE_FACTOR = 4.0
#: A namespace of somebody else is looked at again after so long, seconds.
TAKEN_PAUSE_S = 10.0


class FastPath:
    """Publishes; a job that it does not publish is only later, never lost. Thread-safe."""

    def __init__(
        self,
        publisher: Publisher,
        marks: Marks,
        *,
        compare: Callable[[], None] = lambda: None,
        saw: Callable[[Mapping[str, int]], None] | None = None,
        tasks: TaskSender | None = None,
    ) -> None:
        self._publisher = publisher
        self._marks = marks
        #: Raises ``NamespaceTaken`` when what is published here would be taken by others; asked once.
        self._compare: Callable[[], None] | None = compare
        #: Hears the lengths of the lists that were pushed to.
        self._saw = saw
        #: Sends calls of plain tasks; without it they are the dispatcher's.
        self._tasks = tasks
        self._paused_until = 0.0
        self._down = False

    def publish(self, jobs: Sequence[NewJob | Job]) -> bool:
        """Publish those jobs that are due; whether all of them are at the broker now.

        Never raises: the jobs are committed, so whoever submitted them must not be told otherwise.
        """
        now = clock.now()
        due = [job for job in jobs if job.available_at <= now]
        if not due:
            return True
        started = monotonic_s()
        if started < self._paused_until:
            return False
        try:
            self._ask()
            plain, tasks = split(due)
            refused, lengths = self._publisher.publish(plain)
            if tasks and self._tasks is not None:
                self._tasks.send(tasks)
        except NamespaceTaken as error:
            self._paused_until = monotonic_s() + TAKEN_PAUSE_S
            log.error("jobs are accepted but not published: %s", error)
            return False
        except BrokerUnavailable as error:
            took_s = monotonic_s() - started
            self._paused_until = monotonic_s() + max(PAUSE_S, PAUSE_FACTOR * took_s)
            if not self._down:
                self._down = True
                log.warning("jobs are accepted but not published yet: %s", error.message)
            return False
        except StoreUnavailable as error:  # of tasks, which are read there; the relay sends them
            log.warning("tasks are not sent yet: %s", error.message)
            return False
        except Exception:  # a defect; the relay meets it too, and says what it is
            log.exception("jobs are accepted but could not be published")
            return False
        if self._down:
            self._down = False
            log.warning("the broker is back; jobs are published at once again")
        if self._saw is not None:
            self._saw(lengths)
        left_out = {job.id for job, _ in refused}
        self._marks.add([job.id for job in plain if job.id not in left_out])
        return not left_out

    def _ask(self) -> None:
        compare = self._compare
        if compare is not None:
            with suppress(StoreUnavailable):  # nobody says who we are: asked again next time
                compare()
                self._compare = None
