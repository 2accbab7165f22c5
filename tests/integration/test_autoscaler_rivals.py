"""Autoscalers whose pools overlap: one decides about a pool, whatever else each of them looks after."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.policy.leadership import AUTOSCALER, name_of
from penstock.settings import Settings
from tests.fixtures.cli import Penstock
from tests.fixtures.scaling import Site, pids, serving_device
from tests.fixtures.worker import wait_for

DEFAULT = name_of(["default"])


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Iterator[Site]:
    made = Site(serving_device(settings, tmp_path, min=1, max=1), tmp_path)
    yield made
    made.close()


def leads(site: Site) -> list[str]:
    return [name for name, leader in site.store.elastic.leaderships().items() if leader.holder]


def test_the_second_one_waits_says_so_and_takes_over_when_the_first_is_silent(site: Site) -> None:
    first = site.start()
    before = site.until_ready(1)
    second = site.start("--pool", "default")
    wait_for(lambda: "another autoscaler has pools of this one" in second.output(), what="it says that it waits")
    penstock = Penstock(site.folder, site.settings.environ())
    leader = site.store.elastic.leaderships()[AUTOSCALER]
    words = f"waits to decide for default: {leader.holder} has pools of it"
    status = wait_for(lambda: words in (said := penstock("autoscaler", "status").err) and said, what=words)
    assert f"decided by {leader.holder}" in status
    assert leads(site) == [AUTOSCALER] and pids(site.until_ready(1)) == pids(before)
    first.kill()
    wait_for(lambda: leads(site) == [DEFAULT], what="it leads")
    assert pids(site.until_ready(1)) == pids(before), "with the worker that it has found"
    status = penstock("autoscaler", "status").err
    assert "decided for default by" in status and "waits" not in status


def test_one_that_was_stopped_has_no_effect_when_it_goes_on_and_its_workers_are_not_its_own(site: Site) -> None:
    stale = site.start("--pool", "default")
    before = site.until_ready(1)
    stale.signal(signal.SIGSTOP)
    fresh = site.start()
    wait_for(lambda: leads(site) == [AUTOSCALER], what="the other one leads")
    stale.signal(signal.SIGCONT)
    wait_for(lambda: "another autoscaler has pools of this one" in stale.output(), what="it hears of that and waits")
    assert stale.stop() == 0
    now = site.store.elastic.leaderships()[AUTOSCALER]
    wait_for(lambda: site.store.elastic.leaderships()[AUTOSCALER].beat > now.beat + 5, what="five turns pass")
    assert pids(site.until_ready(1)) == pids(before), "no worker has gone with it"
    assert leads(site) == [AUTOSCALER]
    assert fresh.stop() == 0
    assert site.processes() == []


def test_at_its_end_it_leaves_the_pool_to_who_waits(site: Site) -> None:
    first = site.start("--leave-workers")
    before = site.until_ready(1)
    second = site.start("--pool", "default")
    wait_for(lambda: "another autoscaler has pools of this one" in second.output(), what="it waits")
    assert first.stop() == 0
    wait_for(lambda: leads(site) == [DEFAULT], what="it leads")
    assert pids(site.until_ready(1)) == pids(before)
