"""Workers that are Jobs become another version: the real autoscaler and the real workers, on a served cluster.

The cluster speaks HTTP and has a Job controller; its node runs each pod's words as a process, whatever the image.
"""

# ruff: noqa: E402 - what may be missing is asked for first

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

kubernetes = pytest.importorskip("tests.fixtures.kubernetes", reason="aiohttp or kubernetes-validate is missing")
pytest.importorskip("lightkube")

from penstock.dispatch.daemon import Dispatcher
from penstock.settings import Settings
from tests.fixtures.kubelet import Kubelet
from tests.fixtures.versioned import write
from tests.fixtures.worker import wait_for
from tests.integration.test_rollouts import Rolled, asked, later


class Clustered(Rolled):
    """Two workers of version 1, each a Job."""

    cluster: Any

    def pods(self) -> list[dict[str, Any]]:
        """Those that are there and have not ended."""
        pods = self.cluster.all_pods().values()
        return [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]

    def images(self) -> set[str]:
        """What the pods that are there run."""
        return {pod["spec"]["containers"][0]["image"] for pod in self.pods()}

    def ends(self) -> list[str]:
        """How Jobs have ended, as their conditions say."""
        return [each["type"] for job in self.cluster.jobs().values() for each in job["status"].get("conditions", [])]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def site(
    settings: Settings, tmp_path: Path, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Clustered]:
    folder = tmp_path / "pools"
    folder.mkdir()
    scaler = settings.autoscaler
    used = settings.model_copy(
        update={
            "models": [write(tmp_path, "1")],
            "pools": {"default": settings.pool("default").model_copy(update={"min": 2, "max": 2})},
            "autoscaler": scaler.model_copy(
                update={
                    "every_s": 0.2,
                    "lease_s": 1.0,
                    "backend": "kubernetes",
                    "kubernetes": scaler.kubernetes.model_copy(update={"templates": str(folder)}),
                }
            ),
            "admission": settings.admission.model_copy(update={"enabled": False}),
        }
    )
    environ = [{"name": name, "value": value} for name, value in used.environ().items()]
    worker = {"name": "worker", "image": "which:1", "args": ["worker", "--pool", "default"], "env": environ}
    (folder / "default.json").write_text(json.dumps({"spec": {"containers": [worker]}}))
    made = Clustered(used, tmp_path)
    with kubernetes.Cluster().served() as made.cluster:
        monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig(made.cluster, tmp_path / "kubeconfig")))
        # Real workers read for themselves whether they are to drain.
        node = Kubelet(made.cluster, [sys.executable, "-m", "penstock_cli"], dict)
        node.start()
        try:
            yield made
        finally:
            made.close()
            node.stop()
        assert not made.cluster.denied, "more rights than the chart's Role gives"


def test_new_jobs_are_ready_before_old_ones_drain_and_nobody_waits(site: Clustered, tmp_path: Path) -> None:
    site.start()
    site.until_ready(2)
    with asked(site.settings) as answers, site.watched(2):
        site.rollout("start", "default", "two", "--module", write(tmp_path, "2"), "--image", "which:2")
        wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the rollout to end")
        later(answers, {"2"})
    assert site.images() == {"which:2"}
    wait_for(lambda: site.ends() == ["Complete"] * 2, what="the old ones' Jobs to be complete: they drained")


def test_under_a_quota_one_goes_first_if_nothing_may_surge(site: Clustered, tmp_path: Path) -> None:
    """With a surge, what is refused for want of room is told, and nobody has to go for it."""
    site.cluster.quota = 2
    site.start()
    olds = {slot.id for slot in site.until_ready(2)}
    new = ("start", "default", "two", "--module", write(tmp_path, "2"), "--image", "which:2")
    with asked(site.settings) as answers:
        with site.watched(2):
            site.rollout(*new)
            assert "exceeded quota" in site.until("stuck")["reason"]
            later(answers, {"1"})
        assert olds <= {slot.id for slot in site.slots if slot.state == "wanted"}
        with site.watched(1):
            site.rollout(*new, "--surge", "0")
            wait_for(lambda: site.status()["done"] and len(site.slots) == 2, what="the rollout to end")
        later(answers, {"2"})
    assert site.images() == {"which:2"} and len(site.pods()) == 2
