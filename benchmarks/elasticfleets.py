"""Live parts of elasticity about the fleet itself: drains beside long jobs, leaders that stop and die, many cycles.

How many workers there are to be is written by the benchmark (``elasticdaemon``), since the policy takes its time; what
is done about it is the product's: rows, victims, epochs, processes, drains.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from benchmarks.elasticdaemon import MOMENTS
from benchmarks.elasticground import Jobs, Plan, Site, descriptors, kinds, wait
from benchmarks.live import Setting
from benchmarks.parts import Part
from benchmarks.processes import BenchmarkError, Child, eventually

MODELS = "benchmarks.elasticmodels"
SETTING = Setting(name="timed", alpha_ms=0, beta_ms=0, target_ms=1000, model="timed", max_size=1)


@contextmanager
def site_of(folder: Path, plan: Plan, **settings: str) -> Iterator[Site]:
    """A penstock that runs, with witnesses."""
    site = Site(
        folder,
        SETTING,
        models=MODELS,
        pool={"min": 0, "max": 2 * plan.together},
        settings={"PENSTOCK_AUTOSCALER__EVERY_S": "0.25", **settings},
    )
    try:
        site.start()
        site.watch()
        yield site
    finally:
        site.stop()


# Drains -----------------------------------------------------------------------------------------------------------


def drains(folder: Path, plan: Plan) -> Part:
    """Workers that run long jobs are told to leave, some at a time, and others come in their place.

    A wave: all are busy and jobs wait; a half is drained, and at once as many are wanted again, so that who leaves, who
    comes and who stays are there together. Every second wave all but a few are drained.
    """
    part, rng = Part(), random.Random(plan.seed)
    together = plan.together
    began = time.monotonic()
    with site_of(folder, plan) as site:
        env = site.want(together)
        site.scaler(env=env)
        jobs = Jobs(site)
        site.until(together)
        busy_victims, told = 0, 0
        while told < plan.drains:
            _keep_busy(jobs, site, together, plan)
            stay = together // 2 if rng.random() < 0.5 else rng.randrange(1, max(2, together // 4))
            stay = max(stay, together - (plan.drains - told))
            before = told
            site.want(stay)
            eventually(
                lambda: _drained(site) >= before + together - stay,  # noqa: B023 - asked now
                "the rows to say who drains",
                timeout_s=60,
            )
            told = _drained(site)
            holds = _holding(jobs)
            busy_victims += min(holds, told - before)
            site.want(together)
            site.until(together, exactly=False)
            print(f"  {told} of {plan.drains} drained after {time.monotonic() - began:.0f} s", flush=True)
        jobs.settle()
        site.until(together)
        site.want(0)
        site.until(0)
        eventually(lambda: not site.workers_alive(), "the workers to end", timeout_s=60)
        last = together
        found = jobs.audit()
        jobs.close()
        _judge_drains(part, site, told + last, found)
    part.tell("drains", "scale-downs, one worker each", told)
    part.tell("drains", "of them beside a job that ran", busy_victims)
    part.tell("drains", "took", time.monotonic() - began, "s")
    part.tell("drains", "jobs", found["jobs"])
    return part


def _keep_busy(jobs: Jobs, site: Site, together: int, plan: Plan) -> None:
    missing = 3 * together - jobs.still_open()
    if missing > 0:
        jobs.submit(missing, plan.drain_job_s)
    eventually(lambda: _holding(jobs) >= together, "all workers to be busy", timeout_s=60)


def _holding(jobs: Jobs) -> int:
    with jobs._site.store() as store:
        return sum(count.count for count in store.counts() if count.state.value == "running")


def _drained(site: Site) -> int:
    return sum(change["state"] == "draining" for change in site.changes())


def _judge_drains(part: Part, site: Site, told: int, found: dict[str, int]) -> None:
    chosen = {change["slot"] for change in site.changes() if change["state"] == "draining"}
    ended = Counter(end["slot"] for end in site.ends())
    right = {end["slot"] for end in site.ends() if end["slot"] in chosen and end["asked"] and not end["status"]}
    others = {slot for slot in ended if slot not in chosen}
    part.tell("drains", "workers that ended and were not chosen", len(others))
    part.tell("drains", "chosen ones that did not end with 0", len(chosen - right))
    part.at_least("scale-downs of the chosen victim, share", len(right) / max(1, len(chosen | others)), 1.0)
    part.at_most("scale-downs: jobs lost", found["lost"] + found["never"], 0)
    part.at_most("scale-downs: jobs run twice", found["twice"], 0)


# Leaders ----------------------------------------------------------------------------------------------------------


def leaders(folder: Path, plan: Plan) -> Part:
    """A leader is stopped, or killed, at each moment between a decision and its effect; another wants another fleet."""
    part = Part()
    stale, wrong, late = 0, 0, 0
    rounds = 0
    for signal_ in (signal.SIGSTOP, signal.SIGKILL):
        for moment in MOMENTS:
            for number in range(plan.strikes):
                where = folder / f"{signal_.name}-{rounds}"
                where.mkdir(parents=True)
                one = _strike(where, plan, moment, signal_, number)
                part.tell(
                    f"{signal_.name[3:].lower()}, {moment}",
                    "as the successor wants it after",
                    one["after_s"],
                    "s",
                    **one,
                )
                stale += one["stale"]
                wrong += one["wrong"]
                late += one["lost"] + one["twice"]
                rounds += 1
                print(f"  {signal_.name} {moment}: {one}", flush=True)
    part.at_most(f"leader stopped {plan.stopped_s:g} s, or killed: stale writes with effect", stale, 0)
    part.at_most("leader stopped or killed: fleets that are not as the successor wants", wrong, 0)
    part.at_most("leader stopped or killed: jobs lost or run twice", late, 0)
    return part


def _strike(folder: Path, plan: Plan, moment: str, number: signal.Signals, round_: int) -> dict[str, Any]:
    """One round, on servers of its own."""
    drains_ = moment in ("drain written", "drain noted", "asked")
    first, then, last = (3, 1, 2) if drains_ else (1, 3, 2)
    with site_of(folder, plan, PENSTOCK_AUTOSCALER__LEASE_S=str(plan.lease_s)) as site:
        armed = folder / "armed"
        jobs = Jobs(site)
        env = site.want(first) | {"BENCH_MOMENT": moment, "BENCH_SIGNAL": number.name, "BENCH_ARMED": str(armed)}
        old = site.scaler(env=env)
        site.until(first)
        other = site.scaler(env=site.want(last, file="others"))
        jobs.submit(40, 0.2)
        wait(random.Random(plan.seed + round_).random())
        armed.touch()
        site.want(then)
        eventually(lambda: not armed.exists(), f"the moment {moment!r}", timeout_s=60)
        struck = time.monotonic()
        eventually(lambda: site.epoch() == 2, "the successor to lead", timeout_s=plan.lease_s * 3 + 60)
        site.until(last)
        after_s = time.monotonic() - struck
        kept = _fleet(site)
        jobs.submit(20, 0.1)
        stale = 0
        if number is signal.SIGSTOP:
            wait(max(0.0, plan.stopped_s - (time.monotonic() - struck)))
            before = len(site.changes())
            resumed = {process.pid for process in site.workers_alive()}
            old.process.send_signal(signal.SIGCONT)
            _until_it_knows(old)
            _turns(site, 12)
            stale += sum(change["epoch"] != change["leads"] for change in site.changes()[before:])
            stale += _fleet(site) != kept
            # What it starts with its last breath may live for a moment: it finds its slot taken, and ends.
            eventually(
                lambda: {process.pid for process in site.workers_alive()} <= resumed,
                "what the stale leader has started to end",
                timeout_s=60,
            )
        jobs.settle()
        site.until(last, timeout_s=30)
        stale += sum(change["epoch"] != change["leads"] for change in site.changes())
        strangers = _strangers(site)
        other.check()
        found = jobs.audit()
        jobs.close()
    return {
        "after_s": after_s,
        "stale": stale,
        "wrong": int(bool(strangers)),
        "lost": found["lost"] + found["never"],
        "twice": found["twice"],
    }


def _fleet(site: Site) -> list[tuple[str, str, str | None, int | None]]:
    return [(slot.id, slot.state, slot.worker, (slot.place or {}).get("pid")) for slot in site.slots()]


def _strangers(site: Site) -> set[int]:
    """Processes of workers that no row knows, and those of rows that are not there, by number."""
    return {int((slot.place or {}).get("pid", 0)) for slot in site.slots()} ^ site.supervisors()


def _until_it_knows(scaler: Child) -> None:
    def knows() -> bool:
        scaler.check()
        return "another autoscaler leads by now" in scaler.log.read_text(encoding="utf-8", errors="replace")

    eventually(knows, "the stale leader to hear that another leads", timeout_s=60)


def _turns(site: Site, count: int) -> None:
    with site.store() as store:

        def beat() -> int:
            found = store.elastic.leadership()
            return found.beat if found is not None else 0

        until = beat() + count
        eventually(lambda: beat() >= until, f"{count} turns", timeout_s=60)


# Cycles -----------------------------------------------------------------------------------------------------------


def cycles(folder: Path, plan: Plan) -> Part:
    """Up to three and down to one, over and over, each time with jobs that all of them take part in."""
    part = Part()
    began = time.monotonic()
    with site_of(folder, plan) as site:
        scaler = site.scaler(env=site.want(1))
        jobs = Jobs(site)
        site.until(1)
        counts: list[dict[str, Any]] = []
        for number in range(-1, plan.cycles):
            site.want(3)
            site.until(3)
            jobs.submit(9, 0.02)
            site.want(1)
            site.until(1)
            jobs.settle()
            eventually(lambda: len(site.workers_alive()) <= 2, "the others to end", timeout_s=60)
            if number in (-1, plan.cycles - 1):  # the first pays for what is kept
                counts.append(_census(site, scaler))
            if number % 10 == 9:
                print(f"  {number + 1} of {plan.cycles} cycles after {time.monotonic() - began:.0f} s", flush=True)
        found = jobs.audit()
        jobs.close()
    first, last = counts
    for name in sorted({*first, *last}):
        part.tell("cycles", f"{name}, before and after", last.get(name, 0), "", before=first.get(name, 0))
    for name in ("processes", "descriptors", "shared memory", "connections", "rows", "files"):
        keys = [key for key in {*first, *last} if key.startswith(name)]  # a worker may be forked that was not before
        grown = sum(last.get(key, 0) - first.get(key, 0) for key in keys)
        part.at_most(f"{plan.cycles} cycles: {name} more than before", grown, 0)
    part.at_most(f"{plan.cycles} cycles: jobs lost or run twice", found["lost"] + found["never"] + found["twice"], 0)
    part.tell("cycles", "took", time.monotonic() - began, "s")
    return part


def _census(site: Site, scaler: Child) -> dict[str, int]:
    """What a cycle may leave behind, once it is quiet."""
    found: dict[str, int] = {}
    with site.broker_client() as client:

        def connections() -> int:
            return len(client.client_list())

        _quiet(connections)
        found["connections to the broker"] = connections()
    for name, count in kinds(site.family()).items():
        found[f"processes: {name}"] = count
    [slot] = site.slots()
    named = {"autoscaler": scaler.pid, "dispatcher": site.dispatcher.pid if site.dispatcher else 0}
    supervisor = psutil.Process(int((slot.place or {})["pid"]))
    named["worker's supervisor"] = supervisor.pid
    named["worker"] = supervisor.children()[0].pid
    for name, pid in named.items():
        found[f"descriptors of the {name}"] = descriptors(pid)
        found[f"threads of the {name}"] = psutil.Process(pid).num_threads()
        found[f"memory of the {name}, MB"] = psutil.Process(pid).memory_info().rss >> 20
    # Servers of others on this machine come and go; ours has none.
    shared = [each.name for each in Path("/dev/shm").iterdir() if not each.name.startswith("PostgreSQL.")]
    found["shared memory"] = len(shared)
    with site.store() as store:
        found["rows of slots"] = len(store.elastic.slots())
        found["rows of workers"] = len(store.workers())
    found["files in its home"] = sum(1 for _ in site.folder.rglob("*"))
    return found


def _quiet(count: Any, *, looks: int = 10) -> None:
    """Wait until a count has stayed for some looks."""
    seen: list[int] = []

    def stays() -> bool:
        seen.append(count())
        return len(seen) >= looks and len(set(seen[-looks:])) == 1

    try:
        eventually(stays, "connections to settle", timeout_s=30, every_s=0.2)
    except BenchmarkError:
        print(f"  connections never settled: {json.dumps(seen[-looks:])}", flush=True)
