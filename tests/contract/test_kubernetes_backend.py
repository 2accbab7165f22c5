"""The Kubernetes backend over HTTP against a served API: what becomes of rows, and of faults on the way."""

# ruff: noqa: E402 - what may be missing is asked for first

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.autoscaler.backends.base import BackendUnavailable, Realised
from penstock.errors import ConfigError, Deposed
from penstock.job import new_id
from penstock.processes.agreed import SLOT_FENCE
from penstock.store import Store
from penstock.store.elastic import NewSlot, Slot
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.store import T0, lead

kubernetes = pytest.importorskip("tests.fixtures.kubernetes", reason="aiohttp or kubernetes-validate is missing")
pytest.importorskip("lightkube")

import httpx2
from lightkube import AsyncClient, Client
from lightkube.config.kubeconfig import KubeConfig
from lightkube.config.models import Cluster as Address
from lightkube.config.models import User
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Pod

from penstock.autoscaler.backends.kubernetes import backend as backends
from penstock.autoscaler.backends.kubernetes import mirror as mirrors
from penstock.autoscaler.backends.kubernetes.api import Api
from penstock.autoscaler.backends.kubernetes.backend import KubernetesBackend
from penstock.autoscaler.backends.kubernetes.manifest import Template, template
from penstock.autoscaler.backends.kubernetes.mirror import Mirror
from penstock.autoscaler.backends.kubernetes.seen import Seen, read_job, read_pod

POD = {
    "metadata": {"labels": {"team": "search"}},
    "spec": {
        "containers": [{"name": "worker", "image": "penstock", "args": ["worker", "--pool", "gpu"]}],
        "terminationGracePeriodSeconds": 60,
    },
}


class Rows:
    """A real store, as its leader and its workers use it."""

    def __init__(self, store: Store, cluster: Any) -> None:
        self.elastic = store.elastic
        self._cluster = cluster
        self.succeed()

    def succeed(self) -> None:
        """Another leader takes over."""
        self.term = lead(self.elastic, new_id())

    def want(self, count: int = 1, pool: str = "gpu") -> list[str]:
        new = [NewSlot(pool=pool) for _ in range(count)]
        self.elastic.change(self.term, add=new, now=T0)
        return [each.id for each in new]

    def drain(self, *ids: str) -> None:
        self.elastic.change(self.term, set=dict.fromkeys(ids, "draining"), now=T0)

    def all(self) -> list[Slot]:
        return self.elastic.slots()

    def forget(self, *ids: str) -> None:
        """The rows go, whatever runs."""
        self.drain(*ids)
        assert set(self.elastic.gone([self[id] for id in ids], term=self.term)) == set(ids)

    def __getitem__(self, id: str) -> Slot:
        slot = self.elastic.slot(id)
        assert slot is not None
        return slot

    def __contains__(self, id: str) -> bool:
        return self.elastic.slot(id) is not None

    def pod(self, id: str) -> str | None:
        """The pod that the row names."""
        return (self[id].place or {}).get("pod")

    def take(self, id: str, worker: str) -> None:
        """What the slot's pod does first."""
        (pod,) = self._cluster.pods(id, phase="Running")
        env = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
        assert self.elastic.take(id, worker, fence=env[SLOT_FENCE]) is not None
        assert self.elastic.ready(id, worker, now=T0)


def waiting() -> Iterator[None]:
    """Again and again, until a bound."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        yield
        time.sleep(0.01)
    pytest.fail("it never came")


class Clock:
    """Ours; the cluster's is its own."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A cluster, a store and one leader's backend."""

    def __init__(self, cluster: Any, store: Store, stack: ExitStack) -> None:
        self.cluster, self.rows, self.clock = cluster, Rows(store, cluster), Clock()
        self._stack = stack
        self.templates = {"gpu": template("gpu", POD), "cpu": template("cpu", POD)}
        self.backend = self.leader()
        self.told, self.away = Realised(), ""

    def leader(self, templates: dict[str, Template] | None = None) -> KubernetesBackend:
        """A backend in a process of its own, as it were."""
        # Insecure over plain HTTP: else each client reads all the authorities that the machine trusts.
        address = Address(server=self.cluster.url, insecure=True)
        config = KubeConfig.from_one(cluster=address, user=User(token="t"), namespace=kubernetes.NAMESPACE).get()
        limit = httpx2.Timeout(PATIENCE_S)
        backend = KubernetesBackend(
            Api(Client(config=config, timeout=limit), fleet=kubernetes.MARK),
            Mirror(lambda: AsyncClient(config=config, timeout=limit), fleet="penstock", clock=self.clock),
            templates or self.templates,
            elastic=self.rows.elastic,
            fleet="penstock",
            ttl_s=300,
            clock=self.clock,
        )
        self._stack.callback(backend.close)
        return backend

    def look(self) -> Realised:
        """One turn of the leader's."""
        if self.away:
            self.clock.now += 0.005  # pauses end
        try:
            self.told, self.away = self.backend.realise(self.rows.all(), term=self.rows.term), ""
        except BackendUnavailable as error:
            self.told, self.away = Realised(), str(error)
        self.rows.elastic.gone(self.told.gone, term=self.rows.term)
        return self.told

    def until(self, reached: Callable[[], object]) -> None:
        """Rounds, until it is so."""
        for _ in waiting():
            if reached():
                return
            self.look()

    def settle(self) -> None:
        """Turns, until all that the cluster has was seen and acted upon."""
        for _ in range(3):
            self.until(self._caught_up)
            self.look()

    def later(self, seconds: float) -> None:
        """Time passes, and the cluster is heard of meanwhile."""
        while seconds > 0:
            self.clock.now += min(seconds, 60.0)
            seconds -= 60.0
            self.until(self._heard)
            self.settle()

    def _heard(self) -> bool:
        if self.backend._mirror.seen()[1] < 1.0:
            return True
        self.cluster.break_watches()  # again: a watch that was just about to begin was not broken
        return False

    def _caught_up(self) -> bool:
        with suppress(BackendUnavailable):
            seen, _ = self.backend._mirror.seen()
            jobs = {name: each for name, each in self.cluster.jobs().items() if name.startswith("penstock-")}
            return seen == Seen(
                {name: read_job(Job.from_dict(each)) for name, each in jobs.items()},
                {name: read_pod(Pod.from_dict(each)) for name, each in self.cluster.all_pods().items()},
            )
        return False


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> Iterator[World]:
    monkeypatch.setattr(backends, "FIRST_S", PATIENCE_S)
    monkeypatch.setattr(mirrors, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(mirrors, "PAUSE_LONGEST_S", 0.1)
    with ExitStack() as stack:
        store = stack.enter_context(closing(Store.open(sqlite_url)))
        cluster = stack.enter_context(kubernetes.Cluster().served())
        yield World(cluster, store, stack)
        assert cluster.denied == [], "nothing beyond the chart's Role is asked for"


def running(world: World, count: int = 1) -> list[str]:
    """So many workers that run."""
    world.cluster.running = True
    ids = world.rows.want(count)
    world.until(lambda: all(world.rows.pod(id) for id in ids))
    for number, id in enumerate(ids):
        world.rows.take(id, f"w{number}")
    return ids


# What a row becomes -----------------------------------------------------------------------------------------------


def test_each_slot_is_one_job_with_one_pod(world: World) -> None:
    ids = running(world, 3)
    assert len(world.cluster.jobs()) == 3
    for id in ids:
        (pod,) = world.cluster.pods(id)
        assert pod["spec"]["containers"][0]["args"][-2:] == ["--slot", id]
        assert world.rows[id].place == {
            "job": f"penstock-{id}-1",
            "attempt": 1,
            "pod": pod["metadata"]["name"],
            "node": "node-1",
        }
    claimed = {"penstock/epoch": "1", "penstock/holder": world.rows.term.holder}
    assert world.cluster.mark()["metadata"]["annotations"] == claimed


def test_a_job_is_owned_by_the_fleet_and_ends_for_good(world: World) -> None:
    (id,) = running(world)
    job = world.cluster.jobs()[f"penstock-{id}-1"]
    assert job["metadata"]["ownerReferences"][0]["uid"] == world.cluster.mark()["metadata"]["uid"]
    spec = job["spec"]
    assert (spec["podReplacementPolicy"], spec["ttlSecondsAfterFinished"]) == ("Failed", 300)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["template"]["metadata"]["labels"]["team"] == "search", "the template's own labels stay"


def test_where_nothing_changes_nothing_is_asked_for(world: World) -> None:
    running(world, 3)
    world.settle()
    before = world.cluster.requests.copy()
    for _ in range(50):
        world.look()
    assert world.cluster.requests == before


def test_a_drained_worker_is_gone_for_good(world: World) -> None:
    ids = running(world, 2)
    world.rows.drain(ids[0])
    world.settle()
    assert len(world.cluster.jobs()) == 2, "the worker reads its row, and ends itself"
    world.cluster.end(ids[0], 0)
    world.until(lambda: ids[0] not in world.rows)
    world.settle()
    assert [pod for pod in world.cluster.pods(ids[0]) if pod["status"]["phase"] == "Running"] == []
    assert len(world.cluster.pods(ids[1], phase="Running")) == 1, "the victim is ours to choose"


def test_a_worker_that_does_not_drain_is_ended_after_its_grace(world: World) -> None:
    (id,) = running(world)
    world.rows.drain(id)
    world.settle()
    world.later(60 + 29)
    assert world.cluster.jobs()
    world.later(2)
    world.until(lambda: not world.cluster.jobs())
    assert world.cluster.pods(id)[0]["metadata"]["deletionTimestamp"], "SIGTERM, and its grace"
    assert id in world.rows, "it still runs"
    world.cluster.end(id, 0)
    world.until(lambda: id not in world.rows)


def test_what_has_not_begun_is_deleted_when_it_drains(world: World) -> None:
    world.cluster.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    (id,) = world.rows.want()
    world.until(lambda: world.told.stuck)
    world.rows.drain(id)
    world.until(lambda: not world.cluster.jobs() and not world.rows.all())


def test_a_drained_node_is_missing_capacity(world: World) -> None:
    """The worker has drained in time, so that its Job is complete; the row still wants one."""
    (id,) = running(world)
    world.cluster.running = False
    world.cluster.end(id, 0, disrupted=True)
    world.until(lambda: world.rows[id].worker is None)
    world.until(lambda: world.cluster.pods(id, phase="Pending"))
    assert (world.rows[id].place or {})["attempt"] == 2
    world.cluster.run(id)
    world.until(lambda: world.told.stuck == {} and world.rows.pod(id))


def test_six_evictions_do_not_end_a_job(world: World) -> None:
    (id,) = running(world)
    for _ in range(8):
        before = world.cluster.pods(id)[-1]["metadata"]["name"]
        world.cluster.end(id, 137, disrupted=True)
        world.until(lambda before=before: world.rows.pod(id) not in (None, before))
    assert list(world.cluster.jobs()) == [f"penstock-{id}-1"], "the same Job"
    assert world.told.stuck == {}


def test_a_worker_that_crashes_is_missing_until_the_next_pod_runs(world: World) -> None:
    (id,) = running(world)
    world.cluster.running = False
    before = world.rows[id].fence
    world.cluster.end(id, 1)
    world.until(lambda: world.rows[id].worker is None)
    world.until(lambda: len(world.cluster.pods(id, phase="Pending")) == 1)
    assert world.rows[id].fence not in (None, before), "the one that crashed does not come back into its slot"


def test_a_job_that_somebody_deletes_is_made_again(world: World) -> None:
    (id,) = running(world)
    name = f"penstock-{id}-1"
    world.cluster.expire(name)
    world.settle()
    assert name not in world.cluster.jobs(), "its pod still runs: a slot never has two"
    world.cluster.end(id, 0)
    world.until(lambda: name in world.cluster.jobs())


def test_jobs_without_a_row_are_orphans(world: World) -> None:
    ids = running(world, 2)
    world.cluster.unschedulable = "no room"
    (pending,) = world.rows.want()
    world.until(lambda: pending in world.told.stuck)
    world.rows.forget(ids[0], pending)
    world.until(lambda: set(world.cluster.jobs()) == {f"penstock-{id}-1" for id in ids})
    world.later(80)
    assert len(world.cluster.jobs()) == 2, "the worker sees that it has no slot, and drains by itself"
    world.later(20)
    world.until(lambda: set(world.cluster.jobs()) == {f"penstock-{ids[1]}-1"})


def test_jobs_of_others_are_left_alone(world: World) -> None:
    running(world)
    with world.cluster._lock:
        theirs = {"metadata": {"name": "backup", "labels": {"app": "backup"}}, "spec": {}, "status": {}}
        world.cluster._put("jobs", theirs, "ADDED")
        other = {"penstock/fleet": "staging", "penstock/slot": new_id()}
        world.cluster._put("jobs", {**theirs, "metadata": {"name": "x", "labels": other}}, "ADDED")
    world.later(300)
    assert {"backup", "x"} <= set(world.cluster.jobs())


# What is told of what does not come up ------------------------------------------------------------------------------


def test_unschedulable_is_told(world: World) -> None:
    world.cluster.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    (id,) = world.rows.want()
    world.until(lambda: world.told.stuck)
    assert world.told.stuck == {id: f"Unschedulable: {world.cluster.unschedulable}"}


def test_failed_create_is_told(world: World) -> None:
    """Nothing in the Job's status says so: only events do."""
    world.cluster.quota = 0
    (id,) = world.rows.want()
    world.until(lambda: world.cluster.jobs())
    world.settle()
    world.clock.now += 3
    world.until(lambda: world.told.stuck)
    assert "FailedCreate" in world.told.stuck[id] and "exceeded quota: gpus" in world.told.stuck[id]
    world.cluster.running = True
    world.cluster.lift_quota()
    world.until(lambda: world.rows.pod(id))
    assert world.told.stuck == {}


def test_an_image_that_is_not_there_is_told(world: World) -> None:
    (id,) = world.rows.want()
    world.until(lambda: world.cluster.pods(id))
    world.cluster.wait_for_a_person(id, "ImagePullBackOff", 'Back-off pulling image "penstok"')
    world.until(lambda: world.told.stuck)
    assert world.told.stuck == {id: 'ImagePullBackOff: Back-off pulling image "penstok"'}


def test_a_crash_loop_is_told_with_what_its_status_means(world: World) -> None:
    (id,) = running(world)
    world.cluster.running = False
    world.cluster.end(id, 78, after_s=1)
    world.until(lambda: world.told.stuck)
    assert world.told.stuck[id] == (
        "CrashLoop: its workers ended soon, 1 in a row, last with status 78 (since a model did not load)"
    )


def test_workers_that_end_soon_come_back_later_each_time(world: World) -> None:
    (id,) = running(world)
    world.cluster.end(id, 0, after_s=1)
    world.until(lambda: world.told.stuck)
    assert "ended soon, 1 in a row" in world.told.stuck[id]
    assert len(world.cluster.jobs()) == 1
    world.clock.now += 6
    world.until(lambda: len(world.cluster.jobs()) == 2)
    world.until(lambda: world.cluster.pods(id, phase="Running"))
    world.cluster.end(id, 0, after_s=1)
    world.until(lambda: "2 in a row" in world.told.stuck.get(id, ""))
    world.clock.now += 6
    world.settle()
    assert len(world.cluster.jobs()) == 2, "ten seconds by now"
    world.clock.now += 5
    world.until(lambda: len(world.cluster.jobs()) == 3)


def test_a_pool_without_a_template_is_told(world: World) -> None:
    (id,) = world.rows.want(pool="tpu")
    world.until(lambda: world.told.stuck)
    assert world.told.stuck == {id: "NoTemplate: there is no template tpu.json"}
    assert world.cluster.jobs() == {}


@pytest.mark.parametrize(("status", "reason"), [(403, "Forbidden"), (422, "Invalid")])
def test_a_refusal_is_told_and_not_repeated_at_once(world: World, status: int, reason: str) -> None:
    world.cluster.faults.append(kubernetes.Fault("create", "jobs", 1, status, reason))
    ids = world.rows.want(3)
    world.until(lambda: world.told.stuck)
    assert set(world.told.stuck) == set(ids) and reason in world.told.stuck[ids[0]]
    (other,) = world.rows.want(pool="cpu")
    world.until(lambda: f"penstock-{other}-1" in world.cluster.jobs())
    assert world.cluster.requests["create", "jobs"] == 2, "one for the pool that is refused, one for the other"
    world.clock.now += 6
    world.until(lambda: len(world.cluster.jobs()) == 4)
    assert world.told.stuck == {}


# Rollouts -----------------------------------------------------------------------------------------------------------


def test_another_template_makes_jobs_outdated_and_touches_none(world: World) -> None:
    ids = running(world, 2)
    newer = {"gpu": template("gpu", {**POD, "metadata": {}})}
    world.backend = world.leader(newer)
    world.until(lambda: world.told.outdated)
    assert world.told.outdated == set(ids)
    (fresh,) = running(world)
    world.settle()
    assert world.told.outdated == set(ids)
    assert len(world.cluster.jobs()) == 3 and fresh not in world.told.outdated


# Faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("drop", [False, True], ids=["500", "cut off"])
def test_an_answer_that_is_lost_makes_no_second_job(world: World, done: bool, drop: bool) -> None:
    world.cluster.faults.append(kubernetes.Fault("create", "jobs", 1, done=done, drop=drop))
    world.cluster.running = True
    (id,) = world.rows.want()
    world.until(lambda: world.away)
    world.clock.now += 2
    world.until(lambda: world.rows.pod(id))
    assert list(world.cluster.jobs()) == [f"penstock-{id}-1"]
    assert len(world.cluster.pods(id)) == 1


def test_429_is_heeded(world: World) -> None:
    world.look()
    world.cluster.faults.append(
        kubernetes.Fault("create", "jobs", 1, 429, "TooManyRequests", headers={"Retry-After": "7"})
    )
    world.rows.want(5)
    world.until(lambda: world.away)
    asked = world.cluster.requests["create", "jobs"]
    world.clock.now += 6
    world.look()
    assert world.away
    assert world.cluster.requests["create", "jobs"] == asked == 1
    world.clock.now += 2
    world.until(lambda: len(world.cluster.jobs()) == 5)


def test_a_slow_cluster_does_not_keep_the_leader_from_saying_that_it_lives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is answered, and takes two seconds: what a pass does not come to is left to the next one."""
    world.look()
    create = world.backend._api.create

    def slowly(manifest: dict[str, Any]) -> Any:
        world.clock.now += 2.0
        return create(manifest)

    monkeypatch.setattr(world.backend._api, "create", slowly)
    world.rows.want(7)
    began = world.clock.now
    world.look()
    assert world.clock.now - began < 5.0 and len(world.cluster.jobs()) == 2
    for _ in range(3):
        world.look()
    assert len(world.cluster.jobs()) == 7


def test_an_api_that_is_away_leaves_the_fleet_as_it_is(world: World) -> None:
    ids = running(world, 2)
    world.settle()
    for verb, plural in (("list", "jobs"), ("list", "pods"), ("watch", "jobs"), ("watch", "pods")):
        world.cluster.faults.append(kubernetes.Fault(verb, plural, 10**6, 503, text="<html>upstream"))
    world.cluster.break_watches()
    world.cluster.end(ids[0], 1)
    world.clock.now += 1000
    world.look()
    assert world.away
    assert world.rows[ids[0]].worker == "w0"
    world.cluster.faults.clear()
    world.clock.now += 60
    world.until(lambda: world.rows[ids[0]].worker is None)


@pytest.mark.parametrize("compact", [False, True], ids=["cut off", "and forgotten (410)"])
def test_nothing_is_missed_when_watches_break(world: World, compact: bool) -> None:
    ids = running(world, 4)
    for id in ids:
        world.cluster.break_watches(compact=compact)
        world.cluster.end(id, 1)
        world.until(lambda id=id: world.rows[id].worker is None)
    world.until(lambda: all(world.rows.pod(id) for id in ids))


def test_a_stale_list_makes_nothing_twice_and_loses_nothing(world: World) -> None:
    empty = world.cluster.version()
    ids = running(world, 3)
    created = world.cluster.requests["create", "jobs"]
    world.cluster.stale = [empty] * 6
    world.cluster.break_watches(compact=True)
    world.until(lambda: not world.cluster.stale)
    world.settle()
    assert world.cluster.requests["create", "jobs"] == created
    assert [world.rows[id].worker for id in ids] == ["w0", "w1", "w2"]


def test_a_successor_that_begins_with_a_stale_list_asks_by_name(world: World) -> None:
    """It has nothing to compare the list with: what rows name is asked for before it counts as gone."""
    empty = world.cluster.version()
    ids = running(world, 3)
    world.cluster.stale = [empty] * 2
    world.rows.succeed()
    world.backend = world.leader()
    for _ in range(5):
        world.look()
        assert not world.told.gone
    assert len(world.cluster.jobs()) == 3
    assert [world.rows[id].worker for id in ids] == ["w0", "w1", "w2"]


def test_pods_that_the_list_lacks_are_asked_for_by_name(world: World) -> None:
    """The one list is fresh and the other is not, for as long as it takes."""
    empty = world.cluster.version()
    ids = running(world, 3)
    world.cluster.faults.append(kubernetes.Fault("watch", "pods", 10**6))
    world.backend.close()
    world.cluster.stale_of["pods"] = empty
    world.rows.succeed()
    world.backend = world.leader()
    for _ in range(5):
        assert not world.look().gone
    assert [world.rows[id].worker for id in ids] == ["w0", "w1", "w2"]


def test_a_mark_that_changes_meanwhile_is_read_again(world: World) -> None:
    world.cluster.faults.append(kubernetes.Fault("patch", "configmaps", 2, 409, "Conflict"))
    (id,) = running(world)
    claimed = {"penstock/epoch": "1", "penstock/holder": world.rows.term.holder}
    assert world.cluster.mark()["metadata"]["annotations"] == claimed
    assert len(world.cluster.pods(id)) == 1


def test_without_the_mark_the_error_says_what_to_type(world: World) -> None:
    world.cluster.remove_mark()
    world.rows.want()
    with pytest.raises(ConfigError, match="kubectl create configmap penstock-fleet"):
        world.until(lambda: False)


# Leaders ------------------------------------------------------------------------------------------------------------


def test_a_leader_that_was_stopped_changes_nothing(world: World) -> None:
    """It read the rows, slept, and goes on: its successor has grown the fleet and drained what it wants."""
    ids = running(world, 2)
    stale = new_id()
    world.rows.elastic.change(world.rows.term, add=[NewSlot(pool="gpu", id=stale)], now=T0)
    old, rows, term = world.backend, world.rows.all(), world.rows.term
    world.rows.forget(stale)
    world.rows.succeed()
    world.backend = world.leader()
    newer = running(world, 2)
    world.rows.drain(ids[0])
    world.cluster.end(ids[0], 0)
    world.until(lambda: ids[0] not in world.rows)
    jobs = set(world.cluster.jobs())
    with pytest.raises(Deposed, match="epoch 1 is over: there are Jobs of epoch 2"):
        for _ in waiting():
            told = old.realise(rows, term=term)
            assert not told.gone
    assert set(world.cluster.jobs()) == jobs
    assert all(len(world.cluster.pods(id, phase="Running")) == 1 for id in newer)


def test_the_mark_alone_stops_an_old_leader(world: World) -> None:
    """The successor has nothing that runs, so no Job tells of it."""
    running(world)
    old, term = world.backend, world.rows.term
    world.rows.succeed()
    world.backend = world.leader()
    world.cluster.unschedulable = "no room"
    (id,) = world.rows.want()
    world.until(lambda: id in world.told.stuck)
    world.rows.drain(id)
    world.until(lambda: id not in world.rows)
    for _ in waiting():
        if all(job.epoch == 1 for job in old._mirror.seen()[0].jobs.values()):
            break
    stale = replace(world.rows.all()[0], id=new_id(), place=None, worker=None)
    with pytest.raises(Deposed, match="a leader of epoch 2"):
        old.realise([*world.rows.all(), stale], term=term)
    assert f"penstock-{stale.id}-1" not in world.cluster.jobs()


def test_another_leader_of_the_same_number_makes_nothing(world: World) -> None:
    """The database was restored from a backup, and epochs are counted again: one that was stopped after it had read its
    rows has the number of who leads."""
    running(world)
    lost = replace(world.rows.term, holder="before the restoration")
    stale = replace(world.rows.all()[0], id=new_id(), place=None, worker=None)
    with pytest.raises(Deposed, match="a leader of epoch 1 has been here"):
        world.backend.realise([*world.rows.all(), stale], term=lost)
    assert f"penstock-{stale.id}-1" not in world.cluster.jobs()


def test_a_start_that_the_store_does_not_allow_is_none(world: World) -> None:
    world.settle()
    (id,) = world.rows.want()
    row = world.rows[id]
    world.rows.drain(id)
    world.backend.realise([row], term=world.rows.term)
    assert world.cluster.jobs() == {}


def test_the_successor_goes_on(world: World) -> None:
    ids = running(world, 3)
    world.rows.succeed()
    world.backend = world.leader()
    world.rows.drain(ids[0])
    world.cluster.end(ids[0], 0)
    world.until(lambda: ids[0] not in world.rows)
    world.settle()
    assert all(len(world.cluster.pods(id, phase="Running")) == 1 for id in ids[1:])
    assert world.told.stuck == {}
