"""The autoscaler with real workers: it grows and shrinks, is killed, stopped and replaced, and loses no job."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock import Client
from penstock.settings import Settings
from penstock.store.elastic import Change, Slot
from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis import RedisServer
from tests.fixtures.scaling import DEVICE, Site, pids, serving_device
from tests.fixtures.store import lead
from tests.fixtures.worker import wait_for
from tests.fixtures.zygote import Zygote

#: What a module begins with whose import takes until it is let go.
IMPORTED_LATE = """
import os, time
here = os.path.dirname(__file__)
open(f"{here}/importing", "w").close()
while not os.path.exists(f"{here}/go"):
    time.sleep(0.02)
"""


@pytest.fixture
def site(settings: Settings, tmp_path: Path, start_dispatcher: Any, zygote: Zygote) -> Iterator[Site]:
    used = serving_device(settings, tmp_path, min=1, max=3)
    unbounded = used.admission.model_copy(update={"enabled": False})
    made = Site(used.model_copy(update={"admission": unbounded}), tmp_path, zygote)
    yield made
    made.close()


@pytest.fixture
def start_dispatcher(dispatcher: Any) -> Any:
    return dispatcher


def sized(site: Site, least: int, most: int) -> None:
    pool = site.settings.pool("default").model_copy(update={"min": least, "max": most})
    site.settings = site.settings.model_copy(update={"pools": {"default": pool}})


def with_lost_after(site: Site, seconds: float) -> Site:
    autoscaler = site.settings.autoscaler.model_copy(update={"lost_after_s": seconds})
    site.settings = site.settings.model_copy(update={"autoscaler": autoscaler})
    return site


def turned(site: Site, turns: int) -> None:
    """So many turns of the leader's have passed."""
    before = site.store.elastic.leadership()
    assert before is not None
    wait_for(lambda: site.store.elastic.leadership().beat > before.beat + turns, what="it turns")  # type: ignore[union-attr]


def told(site: Site) -> dict[str, Any]:
    """What the leader has last said of the pool."""
    found = site.store.elastic.leadership()
    return dict((found.state if found is not None else {}).get("pools", {}).get("default") or {})


def test_it_starts_the_least_workers_of_its_pools_and_ends_them_when_it_is_stopped(site: Site) -> None:
    """It looks after some pools only, as the containers of compose.yaml do: its epochs are those of a leadership of its
    own, and the status tells of all."""
    penstock = Penstock(site.folder, site.settings.environ())
    sized(site, 1, 2)
    scaler = site.start("--pool", "default", "--pool", "cpu")
    ready = site.until_ready(1)
    assert {slot.pool for slot in ready} == {"default"}
    with Client(site.settings) as client:
        assert client.run("device", 1, result_timeout=60) > 0

    def told() -> Any:
        found = penstock("autoscaler", "status", "--json").json()
        return found if any(row["target"] == 1 for row in found["pools"]) else None

    status = wait_for(told, what="a status")
    assert [leader["name"] for leader in status["leaders"]] == ["autoscaler:cpu,default"]
    assert status["leader"] == status["leaders"][0]
    asked = penstock("autoscaler", "status", "--pool", "default")
    assert "decided for cpu, default by " in asked.err and "default" in asked.out
    other = penstock("autoscaler", "status", "--pool", "gpu")
    assert "no autoscaler looks after 'gpu'" in other.err and not other.out
    assert scaler.stop() == 0
    assert site.processes() == [] and site.slots == []
    [found] = site.store.elastic.leaderships().values()
    assert found.holder == "", "the next one need not wait for a lease"
    assert "no autoscaler runs" in penstock("autoscaler", "status").err


def test_when_it_is_killed_the_workers_go_on_and_the_next_one_has_them(site: Site) -> None:
    """And when it is stopped and told to leave them."""
    sized(site, 1, 1)
    first = site.start()
    before = site.until_ready(1)
    first.kill()
    second = site.start("--leave-workers")
    wait_for(lambda: site.epoch() == 2, what="the next one leads")
    wait_for(lambda: "worker found again" in second.output(), what="it has found it")
    assert second.stop() == 0
    assert pids(site.ready()) == pids(before) and site.processes() != []
    third = site.lead()
    wait_for(lambda: third.workers == pids(before), what="and so has the one after it")
    assert pids(site.until_ready(1)) == pids(before)
    third.stop()
    assert site.processes() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks workers")
def test_a_forked_worker_that_its_autoscaler_did_not_live_to_write_down_is_found(site: Site) -> None:
    """Killed between the fork and the word about it, and what it was forked from with it."""
    first = site.start()
    site.until_ready(1)
    zygote = wait_for(site.zygote, what="what workers are forked from")

    def forked() -> list[Slot]:
        """The worker, once it is a forked one: a cold one is ended, and another comes."""
        ready = site.ready()
        with suppress(psutil.Error):  # it ends at this moment
            if ready and zygote.pid == psutil.Process(pids(ready)[0]).ppid():
                return ready
            for process in site.processes():
                process.kill()
        return []

    [before] = wait_for(lambda: site.ready() and forked(), what="a forked worker")
    supervisor = psutil.Process(pids([before])[0])
    site.forked = [supervisor.pid, *(child.pid for child in supervisor.children())]
    first.kill()
    zygote.kill()
    place = {name: value for name, value in (before.place or {}).items() if name not in ("pid", "born_at")}
    assert site.store.elastic.place(before.id, place, term=site.term())
    second = site.start()
    wait_for(lambda: "worker found again" in second.output(), what="it is found")
    [after] = site.until_ready(1)
    assert (after.worker, after.fence) == (before.worker, before.fence), "nobody was started in its place"
    assert second.stop() == 0
    assert not any(map(psutil.pid_exists, site.forked)), "and it was asked to end, as others are"


def test_killed_between_drain_and_apply_the_successor_goes_on(site: Site) -> None:
    """The row says that it drains, and nobody was told. And a slot was wanted that nothing was started for."""
    sized(site, 2, 2)
    first = site.lead()
    one, two = site.until_ready(2)
    first.die()
    term = lead(site.store.elastic, "killed right after")
    site.store.elastic.change(term, set={one.id: "draining"}, now=time.time())
    site.lead()
    ready = wait_for(
        lambda: site.ready() if len(site.ready()) == 2 == len(site.slots) and one not in site.ready() else [],
        what="the fleet is as the successor wants it",
    )
    assert two.id in {slot.id for slot in ready} and one.id not in {slot.id for slot in ready}
    assert (two.place or {})["pid"] in pids(ready), "what was wanted all along was left alone"


def test_a_leader_that_was_stopped_for_long_has_no_effect_when_it_goes_on(site: Site) -> None:
    sized(site, 2, 2)
    stale = site.start()
    site.until_ready(2)
    stale.signal(signal.SIGSTOP)
    sized(site, 1, 1)
    fresh = site.lead()
    wait_for(lambda: site.epoch() == 2, what="another leads")
    kept = site.until_ready(1)
    wait_for(lambda: len(site.processes()) == 2, what="one worker and its supervisor are left")
    rows = site.slots
    stale.signal(signal.SIGCONT)
    wait_for(lambda: "another autoscaler leads by now" in stale.output(), what="it hears of that")
    turned(site, 10)
    assert site.epoch() == 2 and [slot.id for slot in site.slots] == [slot.id for slot in rows]
    assert pids(site.ready()) == pids(kept) and len(site.processes()) == 2
    assert fresh.autoscaler.alive and stale.popen.poll() is None


def test_a_crash_loop_is_backed_off_and_reported(site: Site) -> None:
    (site.folder / "device.py.broken").touch()
    site.lead()
    penstock = Penstock(site.folder, site.settings.environ())

    def stuck() -> str:
        pools = penstock("autoscaler", "status", "--json").json()["pools"]
        return next((row["stuck"] for row in pools if "CrashLoop" in row["stuck"]), "")

    assert "no weights here" in wait_for(stuck, what="it is reported")
    assert "CrashLoop" in penstock("autoscaler", "status").out
    (site.folder / "device.py.broken").unlink()
    site.until_ready(1)


def test_it_says_what_it_decided_and_why(site: Site) -> None:
    penstock = Penstock(site.folder, site.settings.environ())
    assert "no autoscaler has run yet" in penstock("autoscaler", "status").err
    scaler = site.lead()
    site.until_ready(1)
    status = wait_for(
        lambda: (found := penstock("autoscaler", "status", "--json").json())["pools"][0]["target"] and found,
        what="what was decided is told with the next beat",
    )
    assert status["leader"]["epoch"] == 1
    row = status["pools"][0]
    assert (row["pool"], row["target"], row["ready"], row["stuck"]) == ("default", 1, 1, "")
    assert row["reason"]
    [change] = penstock("autoscaler", "explain", "default", "--json").jsonl()
    assert (change["before"], change["after"], change["epoch"]) == (0, 1, 1)
    assert change["reason"] in penstock("autoscaler", "explain").out
    other = penstock("autoscaler", "explain", "defalt")
    assert other.status == 2 and "there is no pool 'defalt'" in other.err
    assert "did you mean default? (there are default)" in other.err
    scaler.stop()
    assert "no autoscaler runs" in penstock("autoscaler", "status").err


def test_who_waits_while_there_is_no_worker_is_told_that_one_comes(site: Site) -> None:
    sized(site, 0, 1)
    penstock = Penstock(site.folder, site.settings.environ())
    scaler = site.start()
    wait_for(lambda: "target" in told(site), what="it has decided")
    ended = penstock("run", "device", "1", "--timeout", str(PATIENCE_S))
    assert ended.status == 0, ended.err
    words = ended.err.replace("\n  ", " ")  # whether it has seen the job by then is a matter of milliseconds
    assert "the autoscaler starts one of pool default" in words or "is being started (pool default)" in words
    assert "warning" not in ended.err
    assert scaler.stop() == 0
    ended = penstock("run", "device", "1", "--timeout", "0.1")
    assert "warning: no worker serves 'device' now" in ended.err, "nobody starts one any more"


def test_pools_of_models_that_it_does_not_know_are_left_alone(site: Site) -> None:
    """What workers of another program, or of earlier modules, have announced can be served by none that it starts."""
    other = {"version": "1", "pool": "other", "own_pool": "other", "schema": {}}
    site.store.announce({"gone": other}, {}, now=1.0)
    site.lead()
    site.until_ready(1)
    assert [slot.pool for slot in site.slots] == ["default"]
    assert set(site.store.models()) == {"gone", "device", "broken"}


def test_after_a_stop_the_next_one_begins_with_the_least(site: Site) -> None:
    sized(site, 1, 3)
    scaler = site.lead()
    site.until_ready(1)
    scaler.stop()
    sized(site, 0, 3)
    site.lead()
    wait_for(lambda: site.epoch() == 2, what="the second one leads")
    found = site.store.elastic.leadership

    def looked() -> bool:
        leader = found()
        pool = (leader.state if leader is not None else {}).get("pools", {}).get("default", {})
        return bool(leader and leader.holder and pool.get("demand") is not None and leader.beat > 8)

    wait_for(looked, what="it has looked")
    assert [(change.before, change.after) for change in site.store.elastic.changes("default", limit=9)] == [
        (1, 0),
        (0, 1),
    ]


def test_with_the_broker_away_for_long_nobody_is_stopped_and_explain_says_why(
    site: Site, redis_server: RedisServer
) -> None:
    """It was started for a job, and would be stopped where there is none."""
    sized(site, 0, 3)
    with_lost_after(site, 1.0)
    with Client(site.settings) as client:
        client.enqueue("device", 1)
        scaler = site.lead()
        before = site.until_ready(1)
    wait_for(lambda: told(site).get("age_s") is not None, what="it has signals")
    redis_server.stop()

    def held() -> list[Change]:
        return [change for change in site.store.elastic.changes("default", limit=100) if change.code == "hold.lost"]

    try:
        [change] = wait_for(held, what="that they are lost is told")
        assert (change.before, change.after) == (1, 1) and "unknown is not zero" in change.reason
        assert change.reason in Penstock(site.folder, site.settings.environ())("autoscaler", "explain", "default").out
        wait_for(lambda: told(site)["code"] == "hold.lost", what="the status says so")
        assert told(site)["age_s"] >= 10
        assert pids(site.ready()) == pids(before) and len(site.slots) == 1
    finally:
        redis_server.start()
    wait_for(lambda: not told(site)["code"].startswith("hold.lost"), what="it sees again")
    assert len(held()) == 1, "it was told once"
    with Client(site.settings) as client:
        assert client.run("device", 1, result_timeout=PATIENCE_S) > 0
    assert pids(site.ready()) == pids(before) and scaler.autoscaler.alive


class TestWithItsDatabaseAway:
    """Postgres, which is stopped."""

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url

    def test_gone_while_models_are_imported_it_is_waited_for(self, site: Site, postgres_server: PostgresServer) -> None:
        """The database has answered before, and what is said next is what the models are."""
        (site.folder / "device.py").write_text(IMPORTED_LATE + DEVICE)
        scaler = site.start()
        wait_for((site.folder / "importing").exists, what="models are imported")
        postgres_server.stop()
        (site.folder / "go").touch()
        try:
            wait_for(lambda: "waiting for the database" in scaler.output(), what="it waits")
        finally:
            postgres_server.start()
        site.until_ready(1)

    def test_turns_are_skipped_the_fleet_stays_and_it_goes_on_afterwards(
        self, site: Site, postgres_server: PostgresServer
    ) -> None:
        sized(site, 2, 2)
        scaler = site.lead()
        before = site.until_ready(2)
        processes = scaler.processes()
        postgres_server.stop()
        wait_for(lambda: scaler.autoscaler.away, what="it has noticed")
        # Longer than its lease: of itself, too, it cannot know whether it still leads.
        ends = time.monotonic() + 3 * site.settings.autoscaler.lease_s
        while time.monotonic() < ends:
            assert scaler.autoscaler.alive
            assert scaler.processes() == processes
            time.sleep(0.1)
        postgres_server.start()
        wait_for(lambda: not scaler.autoscaler.away, what="it goes on")
        turned(site, 5)
        assert pids(site.until_ready(2)) == pids(before) and site.epoch() == 1
        os.kill(scaler.workers[0], signal.SIGKILL)
        wait_for(lambda: scaler.processes() - processes, what="it looks after them")
        with Client(site.settings) as client:
            assert client.run("device", 1, result_timeout=PATIENCE_S) > 0


def test_a_worker_that_dies_is_replaced(site: Site) -> None:
    scaler = site.lead()
    [before] = site.until_ready(1)
    for pid in scaler.processes():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: site.ready() and pids(site.ready()) != pids([before]), what="another is ready")


def test_a_burst_is_followed_up_and_down_and_no_job_is_lost_or_run_twice(site: Site) -> None:
    """From one device of 50 ms to three and back, while jobs go on coming."""
    site.lead()
    site.until_ready(1)
    most, ends = 0, time.monotonic() + PATIENCE_S
    with Client(site.settings) as client:
        # Twelve seconds of one device's time at once; then a tenth of what it does.
        jobs = client.enqueue_many("device", [1] * 240, lane="interactive")
        while not (most == 3 and len(site.slots) == 1) and time.monotonic() < ends:
            jobs.append(client.enqueue("device", 1, lane="interactive"))
            time.sleep(0.5)
            most = max(most, len(site.ready()))
        done = [job.result(timeout=PATIENCE_S) for job in jobs]
    assert most == 3, "more devices came while there was work for them"
    assert len(site.until_ready(1)) == 1, "and left when there was none"
    rows = site.store.get_many([job.id for job in jobs])
    assert len(rows) == len(jobs)
    assert {(row.state.value, row.attempt) for row in rows.values()} == {("succeeded", 1)}
    assert len(set(done)) >= 2, "they did some of it"
    assert site.store.elastic.changes("default")[0].after == 1
