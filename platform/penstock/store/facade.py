"""``Store``: every verb on the database in one place, each documented by what it promises."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from penstock.errors import PenstockError
from penstock.job import Job, JobState, NewJob, Outcome
from penstock.pipelines.frontier import Outline
from penstock.policy.fairness import Terms
from penstock.store import (
    bulk,
    called,
    claims,
    deadlines,
    deliveries,
    identity,
    producers,
    relay,
    retention,
    tenants,
    users,
    workers,
)
from penstock.store.elastic import Elastic
from penstock.store.engine import Database, Left, Survives
from penstock.store.records import (
    ClaimResult,
    Count,
    Deadline,
    Delivery,
    Inserted,
    Latency,
    Moment,
    Settled,
    Within,
    WorkerInfo,
)
from penstock.store.runs import tasks, unserved
from penstock.store.runs.bounds import Bounds
from penstock.store.runs.conclude import concluded
from penstock.store.runs.cost import RunCost, cost
from penstock.store.runs.plans import graph_of, run_bounds
from penstock.store.runs.standing import RunStanding, standing
from penstock.store.runs.tasks import Ended, OpenTask, Unsent
from penstock.store.runs.tend import tend
from penstock.store.runs.waits import receive
from penstock.store.runs.within import within

#: How long whoever inserts a job has for publishing it before a dispatcher does, seconds.
PUBLISH_LEASE_S = 2.0


class Store:
    """The truth about jobs, in SQLite or Postgres. Synchronous and thread-safe.

    Every verb is one transaction and raises ``StoreUnavailable`` when the database does not answer, ``SchemaOutdated``
    when its tables are not of this version. After ``StoreUnavailable`` it is not known whether the verb was done; each
    may be repeated as it was. ``now`` is always passed in.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        #: Leaders, slots of workers, and records of scaling.
        self.elastic = Elastic(database)

    @classmethod
    def open(cls, url: str, *, pool_size: int = 5) -> Store:
        """A store for ``sqlite:///…`` or ``postgresql://…``; connects at the first use. Raises ``ConfigError``."""
        return cls(Database(url, pool_size=pool_size))

    def check(self) -> None:
        """Return if the database answers and its tables are of this version."""
        self._db.check()

    @property
    def where(self) -> str:
        """The database for a person: no user, no password."""
        return self._db.where

    def identity(self) -> str:
        """Who this database is: the same wherever it is moved or restored to, another in each new one."""
        return identity.identity(self._db)

    @property
    def bulk_rows(self) -> int:
        """How many jobs one ``insert`` should have at most, so that other writers do not wait long for it."""
        return self._db.bulk_rows

    @property
    def change_rows(self) -> int:
        """How many jobs one ``cancel_many`` or ``retry_many`` should have at most, for the same reason."""
        return self._db.change_rows

    def publish_by(self, publish: Callable[[Sequence[NewJob]], object], *, lease_s: float = PUBLISH_LEASE_S) -> None:
        """Steps of runs that this store's transactions let begin are published by ``publish``, which must not raise.

        It is called after each commit, and no dispatcher takes them for ``lease_s`` seconds. Without it they are the
        dispatcher's at once.
        """
        self._db.on_released, self._db.release_lease_s = publish, lease_s

    def revoke_by(self, revoke: Callable[[Sequence[str]], object]) -> None:
        """Plain tasks that were sent and are wanted no longer are revoked by ``revoke``, after the commit; it must not
        raise. Without it they run, and what they give is late."""
        self._db.on_revoked = revoke

    def finish_by(self, send: Callable[[Sequence[Job]], object]) -> None:
        """Runs that Celery's programs have called and that end by this store are told to ``send``, after the commit: it
        sends their messages again, and must not raise. Without it the dispatcher does, some seconds later."""
        self._db.on_owed = send

    def leave_to(self, take: Callable[[Left], object]) -> None:
        """What transactions on runs leave to others behind them is done by who ``take``s it, which must not raise, a
        ``step`` at a time. Without it, calls that end jobs return when all of it is done."""
        self._db.on_left = take

    def limit_outputs(self, max_bytes: int) -> None:
        """A run whose output is longer ends as ``failed``: bytes of JSON."""
        self._db.max_output_bytes = max_bytes

    def pin_versions(self, pins: bool) -> None:
        """Whether runs that begin by this store go on with the versions of models that are served at that moment."""
        self._db.pins = pins

    def tidy(self) -> bool:
        """Housekeeping that is due every half second; whether there was any. May wait for the disk."""
        return self._db.tidy()

    def close(self) -> None:
        """Close the idle connections."""
        self._db.close()

    # Producers --------------------------------------------------------------------------------------------------

    def insert(
        self, jobs: Sequence[NewJob], *, publish_lease_s: float = PUBLISH_LEASE_S, more_follow: bool = False
    ) -> list[Inserted]:
        """Accept jobs: all or none, durable on return. With ``more_follow`` they survive a loss of power only with the
        next durable commit: of a call of which nobody is told until its last insert.

        A job whose (tenant, idempotency key) is taken by one with the same digest is not stored, and the answer has
        that one's id; with another digest ``IdempotencyConflict`` is raised. For ``publish_lease_s`` seconds no
        dispatcher takes the new jobs: the caller publishes them.
        """
        return producers.insert(self._db, jobs, publish_lease_s=publish_lease_s, more_follow=more_follow)

    def insert_groups(
        self, groups: Sequence[Sequence[NewJob]], *, publish_lease_s: float = PUBLISH_LEASE_S
    ) -> list[list[Inserted] | PenstockError]:
        """Accept the jobs of many callers in one transaction. A caller's conflict is its answer; nobody else fails."""
        return producers.insert_groups(self._db, groups, publish_lease_s=publish_lease_s)

    def mark_queued(self, ids: Sequence[str], *, now: float) -> int:
        """``accepted -> queued``: their messages are at the broker. How many were still to be marked.

        Only jobs that somebody has taken for publishing (``insert``, ``take_due``, ``retry``) are marked.
        """
        return relay.mark_queued(self._db, ids, now=now)

    # Workers ----------------------------------------------------------------------------------------------------

    def register_worker(
        self,
        instance: str,
        *,
        name: str,
        pool: str,
        lease_until: float,
        now: float,
        info: dict[str, Any],
        lane: str | None = None,
    ) -> None:
        """Give a worker its lease, and remember what it announces: ``info["models"]`` and ``info["pipelines"]``, of
        which each has its ``graph`` as JSON text. ``lane`` is the one that it keeps to.

        Claims of a worker without a lease are taken back by the next rescue.
        """
        workers.register(
            self._db, instance, name=name, pool=pool, lease_until=lease_until, now=now, info=info, lane=lane
        )

    def announce(
        self, models: Mapping[str, Mapping[str, Any]], pipelines: Mapping[str, Mapping[str, Any]], *, now: float
    ) -> None:
        """Remember what workers will serve when there are any, as ``register_worker`` does. What a live worker serves
        is left as that one has announced it."""
        workers.announce(self._db, models, pipelines, now=now)

    def heartbeat(self, instance: str, *, lease_until: float, now: float, lane: str | None = None) -> bool:
        """Extend the lease, and say which lane it keeps to now. ``False``: the lease was lost, and all jobs of this
        worker with it."""
        return workers.heartbeat(self._db, instance, lease_until=lease_until, now=now, lane=lane)

    def taking(self, lane: str, *, beside: str, now: float) -> builtins.list[dict[str, str]]:
        """What other live workers serve that take jobs of the lane: versions by model, each combination once."""
        return workers.taking(self._db, lane, beside=beside, now=now)

    def unregister_worker(self, instance: str) -> None:
        """End the lease; jobs that the worker still holds are rescued at the dispatcher's next look."""
        workers.unregister(self._db, instance)

    def workers(self) -> builtins.list[WorkerInfo]:
        """The workers that have a lease, or had one that nobody noticed to have run out."""
        return workers.workers(self._db)

    def models(self) -> dict[str, dict[str, Any]]:
        """What workers announced of each model when they registered (``info["models"]``), also of workers long gone."""
        return workers.models(self._db)

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """The same of each pipeline (``info["pipelines"]``), with its ``graph`` as JSON text."""
        return workers.pipelines(self._db)

    def latencies(self) -> builtins.list[Latency]:
        """What workers have learned of batch times, per model, version, kind of device and key."""
        return workers.latencies(self._db)

    def keep_latencies(self, lines: Sequence[Latency], *, now: float) -> None:
        """Store what was learned; the last one wins. May be lost in a crash of the database's machine."""
        workers.keep_latencies(self._db, lines, now=now)

    def inputs(self, ids: Sequence[str]) -> dict[str, str]:
        """The inputs of these jobs, JSON text by id; unknown ids are absent."""
        return claims.inputs(self._db, ids)

    def claim(
        self,
        ids: Sequence[str],
        *,
        worker: str,
        now: float,
        version: str | None = None,
        claimed_at: Mapping[str, float] | float | None = None,
        need_input: Sequence[str] = (),
        repeated: bool = False,
        alone: bool = True,
    ) -> ClaimResult:
        """``accepted | queued -> running`` under a new attempt number, for those that may run.

        ``version`` is what will run them; jobs that ask for another one are not claimed.

        A suspect is claimed by itself or not at all, and only by a worker that says it will be ``alone`` there.

        Of the others the answer says what they are; waiting ones whose deadline has passed are ended as ``expired`` on
        this occasion. An accepted job whose time has not come (a retry's back-off, a delay) is among ``others``.

        A call that raised may have claimed all the same. Repeat it with the same ``claimed_at`` and
        ``repeated``: what it claimed is in the answer too.
        """
        return claims.claim(
            self._db,
            ids,
            worker=worker,
            version=version,
            now=now,
            claimed_at=claimed_at,
            need_input=need_input,
            repeated=repeated,
            alone=alone,
        )

    def end_expired(self, ids: Sequence[str], *, now: float) -> ClaimResult:
        """Waiting jobs of these whose deadline has passed are ended as ``expired``, as by a claim; nothing is claimed.

        The answer says what the others are.
        """
        return claims.end_expired(self._db, ids, now=now)

    def within(self, ids: Sequence[str]) -> dict[str, Within]:
        """Where these steps of runs are told of, by id; what is no step is absent."""
        return within(self._db, ids)

    def adopt(self, jobs: Sequence[NewJob]) -> builtins.list[str]:
        """Store jobs that were first seen at the broker, as ``queued`` (``accepted`` if ``available_at`` lies ahead).

        Ids that are stored already are left alone; the answer has the new ones. Raises ``InvalidInput`` for all when
        one has an id that cannot be stored.
        """
        return producers.adopt(self._db, jobs)

    def settle(self, outcomes: Sequence[Outcome], *, worker: str, now: float) -> builtins.list[Settled]:
        """Write down how attempts ended. The answer has the jobs that this changed, with their new state.

        An outcome of an attempt that is over (the lease was lost, the job was rescued) changes nothing and is absent.
        A job whose cancellation was asked for ends as ``cancelled``, one whose deadline has passed as ``expired``, and
        its output is dropped. The event of a job with a webhook is stored in the same transaction. Repeating a call
        gives the same answer.
        """
        return claims.settle(self._db, outcomes, worker=worker, now=now)

    def release(self, pairs: Sequence[tuple[str, int]], *, worker: str, now: float) -> int:
        """``running -> queued`` for (id, attempt) pairs that did not begin: costs no budget. How many were ours."""
        return claims.release(self._db, pairs, worker=worker, now=now)

    def held(self, ids: Sequence[str], *, worker: str) -> set[str]:
        """Which of these jobs still run at ``worker`` and are wanted: not cancelled, not taken over, not ended."""
        return claims.held(self._db, ids, worker=worker)

    def mark_canvas_done(self, ids: Sequence[str]) -> None:
        """The callbacks of these canvas members were sent: nothing is left to finish."""
        claims.mark_canvas_done(self._db, ids)

    def owed(self, ids: Sequence[str]) -> builtins.list[Job]:
        """Those of these jobs that came as Celery's messages and have ended, without its having been told."""
        return called.owed(self._db, ids)

    # Users ------------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Job:
        """The job; ``JobNotFound`` if there is none."""
        return users.get(self._db, id)

    def get_many(self, ids: Sequence[str]) -> dict[str, Job]:
        """The jobs that exist, by id."""
        return users.get_many(self._db, ids)

    def ends(self, ids: Sequence[str]) -> dict[str, tuple[JobState, float]]:
        """State and time of those of these jobs that have ended."""
        return users.ends(self._db, ids)

    def models_of(self, ids: Sequence[str]) -> dict[str, str]:
        """The model of each of these jobs."""
        return users.models_of(self._db, ids)

    def in_canvas(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs that came as Celery's messages, for whose results Celery's own waiters look elsewhere."""
        return users.in_canvas(self._db, ids)

    def ids_from(self, prefix: str, *, limit: int) -> builtins.list[str]:
        """Ids that begin with ``prefix``, in order."""
        return users.ids_from(self._db, prefix, limit=limit)

    def neighbours(self, ids: Sequence[str]) -> set[str]:
        """The ids just before and just behind each of these."""
        return users.neighbours(self._db, ids)

    def holder(self, tenant: str, key: str) -> str | None:
        """The id of the tenant's job with this idempotency key, if there is one."""
        return users.holder(self._db, tenant, key)

    def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        tenant: str | None = None,
        tag: tuple[str, str] | str | None = None,
        lane: str | None = None,
        limit: int = 100,
        before: str | None = None,
        run: str | None = None,
    ) -> builtins.list[Job]:
        """Jobs that fit every filter, the newest first; those of one moment by their ids.

        Steps of runs are left out; with ``run``, it is that run's steps that are listed.

        ``before`` continues after the last id of a page; raises ``JobNotFound`` where that job is not kept any more.

        ``model`` may be ``name@version``: those that ask for it. ``tag`` is ``(name, value)``, ``"name=value"``, or
        ``"name"`` for any value. Only ``status`` and ``tag`` have an index: other filters that few jobs fit take time
        in proportion to the jobs that are kept.
        """
        return users.list_jobs(
            self._db, status=status, model=model, tenant=tenant, tag=tag, lane=lane, limit=limit, before=before, run=run
        )

    def run_standing(self, id: str) -> RunStanding:
        """A run's graph and how far its steps are: a row for each plain one, counts for a map, however wide it is.

        Raises ``JobNotFound`` for what is no run.
        """
        return standing(self._db, id)

    def run_cost(self, id: str) -> RunCost:
        """What a run has taken so far; ``JobNotFound`` for what is no run."""
        return cost(self._db, id)

    def counts(self) -> builtins.list[Count]:
        """Open jobs per model, version asked for, lane and state. States without any are left out."""
        return users.counts(self._db)

    def asked(self) -> builtins.list[Count]:
        """Those of ``counts`` that ask for a version; quick, however many others there are."""
        return users.asked(self._db)

    def deadlines(self, *, now: float, limit: int) -> builtins.list[Deadline]:
        """The earliest deadlines of jobs that wait and could run now, at most ``limit``; delayed ones that have to end
        as soon as these may take their places. Quick, however many there are."""
        return deadlines.soonest(self._db, now=now, limit=limit)

    def cancel(self, id: str, *, now: float) -> Job:
        """Cancel, durably: at once while it waits, else at the end of its attempt. Once it has ended this is a look."""
        return users.cancel(self._db, id, now=now)

    def retry(self, id: str, *, now: float, publish_lease_s: float = 0.0) -> Job:
        """``failed | cancelled | expired -> accepted`` with fresh budgets and without a deadline that has passed.

        An open job is left as it is; one that succeeded raises ``IllegalTransition``.
        """
        return users.retry(self._db, id, now=now, publish_lease_s=publish_lease_s)

    def cancel_many(self, ids: Sequence[str], *, now: float, only: str = "") -> builtins.list[Settled]:
        """``cancel`` for many jobs in one statement: those that this changed, running ones among them.

        ``only`` leaves those alone that are in another state by now.
        """
        return bulk.cancel(self._db, ids, only=only, now=now)

    def retry_many(
        self, ids: Sequence[str], *, now: float, only: str = "", publish_lease_s: float = 0.0
    ) -> builtins.list[Job]:
        """``retry`` for many jobs in one statement: those that this changed."""
        return bulk.retry(self._db, ids, only=only, now=now, publish_lease_s=publish_lease_s)

    def statuses(self, ids: Sequence[str]) -> dict[str, str]:
        """The status of each of these jobs that exists, by id."""
        return bulk.statuses(self._db, ids)

    def page(self, state: str, fits: Mapping[str, Any], *, after: bulk.Place = bulk.FIRST, scan: int) -> bulk.Page:
        """Of the next ``scan`` jobs in a state, those that fit: ``model``, ``tenant``, ``lane``, ``tag`` and ``value``,
        ``tag_name``, ``until`` (accepted then or before). Jobs that change their state meanwhile may be passed over."""
        return bulk.page(self._db, state=state, fits=dict(fits), after=after, scan=scan)

    # Dispatcher -------------------------------------------------------------------------------------------------

    def take_due(self, *, now: float, limit: int, lease_s: float) -> builtins.list[Job]:
        """Accepted jobs whose time has come, in order. Nobody else is given them for ``lease_s`` seconds."""
        return relay.take_due(self._db, now=now, limit=limit, lease_s=lease_s)

    def redate(self, *, now: float, ahead_s: float, limit: int) -> int:
        """Make due what came, by its own times, more than ``ahead_s`` seconds after now, and was due then; how much.

        The wall clock has been set back since. Waiting jobs that somebody delayed and tries after a failure stay. At
        most ``limit`` jobs and as many deliveries.
        """
        jobs = relay.redate(self._db, now=now, ahead_s=ahead_s, limit=limit)
        return jobs + deliveries.redate(self._db, now=now, ahead_s=ahead_s, limit=limit)

    def next_due_at(self) -> float | None:
        """When ``take_due`` has something next, as far as is known now; may be in the past."""
        return relay.next_due_at(self._db)

    def rescue(
        self,
        *,
        now: float,
        max_losses: int,
        max_kills: int = 2,
        dead: Sequence[tuple[str, float]] | None = None,
    ) -> builtins.list[Settled]:
        """Take the jobs of workers without a lease away from them: ``accepted``, or ``failed`` at the budget's end.

        ``dead`` are those that are to lose their lease now, ``(instance, lease_until)`` as last read: one that has
        renewed it since keeps it. Without ``dead``, these are the ones whose lease is over by the clock of ``now``.

        A job that was all that a dead worker ran, for the ``max_kills``th time, is ``failed`` as ``quarantined``. The
        jobs of a worker whose lease ran out are suspects: each can from now on only be claimed by itself.
        """
        return relay.rescue(self._db, now=now, max_losses=max_losses, max_kills=max_kills, dead=dead)

    def signal(self, run: str, name: str, value: str, *, id: str, now: float) -> builtins.list[Settled]:
        """Tell a run what one of its steps waits for, or will: JSON text, kept until then. Durable on return.

        The same ``id`` twice is one signal. The rows of what has ended with that. Raises ``JobNotFound``,
        ``InvalidInput`` for a name that no step waits for, ``IllegalTransition`` for a run that has ended.
        """
        rows, followed = concluded(
            self._db, Survives.POWER, lambda session: receive(session, run, name, value, id, now=now), now=now
        )
        return [*rows, *followed]

    def graph_of(self, run: str) -> Outline:
        """The graph that a run goes on with, outlined; raises ``JobNotFound`` where there is no such run."""
        return graph_of(self._db, run)

    def bounds_of(self, run: str) -> Bounds:
        """How many steps of a run may be in flight, and its budget, device seconds; as ``graph_of``."""
        return run_bounds(self._db, run)

    def fork(self, source: str, job: NewJob, again: Collection[str]) -> builtins.list[Settled]:
        """Accept a run of the graph of ``source`` that takes over its steps, but for those to be done ``again``.

        The rows of what has ended with that.
        """
        return producers.fork(self._db, source, job, again)

    def tend_runs(self, *, now: float, limit: int, heal: bool = True) -> builtins.list[Settled]:
        """Begin runs that are due, end overdue ones, and do what processes that died have left to do for others.

        With ``heal`` it looks through all open runs for those in which nothing is open, and asks what is next in them.
        The rows of what has ended with that.
        """
        return tend(self._db, now=now, limit=limit, heal=heal)

    def unsent_tasks(self, ids: Sequence[str]) -> builtins.list[Unsent]:
        """Those of these steps that are plain tasks and not noted as sent, with what they are given."""
        return tasks.unsent(self._db, ids)

    def tasks_sent(self, until: Iterable[tuple[str, float]], *, now: float) -> set[str]:
        """``accepted -> running`` for plain tasks whose messages were sent; ``until`` when somebody must have heard of
        each, Unix seconds. Those that were still to be sent."""
        return tasks.sent(self._db, until, now=now)

    def end_tasks(self, ends: Iterable[Ended], *, now: float) -> builtins.list[Settled]:
        """Settle plain tasks; what has ended, or is another attempt, stays as it is. The rows of all that ended."""
        return tasks.end(self._db, ends, now=now)

    def open_tasks(self, *, after: OpenTask | None = None, limit: int = 1000) -> builtins.list[OpenTask]:
        """Plain tasks that were sent, those first that are waited for least long; some of them may have ended."""
        return tasks.open_tasks(self._db, after=after, limit=limit)

    def lose_tasks(self, ids: Sequence[str], *, now: float, most: int) -> builtins.list[Settled]:
        """Fail those of these plain tasks of which nobody has heard in time, as ``task_lost``; those that may run twice
        are due again, ``most`` times each. The rows of all that ended."""
        return tasks.lose(self._db, ids, now=now, most=most)

    def waiting_steps(self, *, before: float) -> builtins.list[tuple[str, str | None]]:
        """The models, and versions of them, that steps of runs have waited for since ``before`` or longer."""
        return unserved.waiting(self._db, before=before)

    def fail_steps(
        self, model: str, version: str | None, *, before: float, error: Mapping[str, Any], now: float, limit: int
    ) -> builtins.list[Settled]:
        """End such steps as ``failed`` with this error; the rows of what has ended with that."""
        return unserved.fail(self._db, model, version, before=before, error=error, now=now, limit=limit)

    def expire(self, *, now: float, limit: int) -> builtins.list[Settled]:
        """End waiting jobs whose deadline has passed."""
        return relay.expire(self._db, now=now, limit=limit)

    def queued(self, *, after: Moment | None = None, limit: int = 1000) -> builtins.list[Moment]:
        """Queued jobs, the oldest first, from after ``after``."""
        return relay.queued(self._db, after=after, limit=limit)

    def requeue(self, ids: Sequence[str], *, now: float) -> int:
        """``queued -> accepted``: their messages are lost, so that they are due again. How many were still queued."""
        return relay.requeue(self._db, ids, now=now)

    def unfinished_canvas(self, *, older_than: float, limit: int, exclude: Sequence[str] = ()) -> builtins.list[Job]:
        """Canvas members that ended before ``older_than`` and whose callbacks were not marked as sent.

        The oldest first, without the ids in ``exclude``.
        """
        return relay.unfinished_canvas(self._db, older_than=older_than, limit=limit, exclude=exclude)

    def prune(self, *, before: float, limit: int) -> int:
        """Delete about ``limit`` jobs that ended before ``before``, with what belongs to them. How many.

        A run goes behind its steps, and behind the runs within it: call again until the answer is 0. Pending webhook
        deliveries are kept.
        """
        return retention.prune(self._db, before=before, limit=limit)

    # Tenants ----------------------------------------------------------------------------------------------------

    def tenants(self) -> dict[str, Terms]:
        """The weights and caps that were set by hand, by tenant."""
        return tenants.tenants(self._db)

    def set_tenant(self, name: str, terms: Terms | None, *, now: float) -> None:
        """Set a tenant's weight and cap; ``None`` removes them, so that the settings apply again."""
        tenants.set_tenant(self._db, name, terms, now=now)

    # Webhooks ---------------------------------------------------------------------------------------------------

    def take_deliveries(
        self,
        *,
        now: float,
        limit: int,
        lease_s: float,
        per_host: int | None = None,
        exclude_hosts: Sequence[str] = (),
    ) -> builtins.list[Delivery]:
        """Due deliveries, at most ``per_host`` to one host. Nobody else is given them for ``lease_s`` seconds."""
        return deliveries.take(
            self._db, now=now, limit=limit, lease_s=lease_s, per_host=per_host, exclude_hosts=exclude_hosts
        )

    def release_deliveries(self, pairs: Sequence[tuple[str, float]]) -> int:
        """Give back deliveries that were taken and not tried: ``(id, end of the lease)``. How many were still ours."""
        return deliveries.release(self._db, pairs)

    def record_delivery(
        self,
        id: str,
        *,
        now: float,
        outcome: str,
        next_at: float | None = None,
        status_code: int | None = None,
        error: str | None = None,
    ) -> bool:
        """Write down one attempt: ``delivered``, ``retry`` (at ``next_at``), ``dead`` or ``gone``.

        ``gone`` stops every event to that URL, the waiting and the coming ones, until one of them is replayed or the
        last one is pruned. ``False``: the delivery had ended before.
        """
        return deliveries.record(
            self._db, id, now=now, outcome=outcome, next_at=next_at, status_code=status_code, error=error
        )

    def list_deliveries(
        self, *, state: str | None = None, job_id: str | None = None, limit: int = 100
    ) -> builtins.list[Delivery]:
        """Deliveries, newest first."""
        return deliveries.list_deliveries(self._db, state=state, job_id=job_id, limit=limit)

    def get_delivery(self, id: str) -> Delivery:
        """One delivery; ``JobNotFound`` if there is none."""
        return deliveries.get(self._db, id)

    def replay_delivery(self, id: str, *, now: float) -> Delivery:
        """Deliver again, under the same message id and from the schedule's beginning. Opens a ``gone`` URL again."""
        return deliveries.replay(self._db, id, now=now)
