"""The Job that realises a slot: a pool's template with our names on it.

::

    POOL.json (a PodTemplateSpec, whole)        slot, attempt, epoch, owner
                     \\                           /
                      one Job, one pod, one worker

A Job's template cannot be changed, so a pool's new template is a new *digest*: Jobs of another one are outdated, and
their slots are replaced (``penstock.policy.rollout``).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from penstock.errors import ConfigError
from penstock.processes.agreed import SLOT_FENCE

#: Labels and annotations of ours.
SLOT, POOL, FLEET, TEMPLATE, EPOCH, HOLDER, ATTEMPT = (
    f"penstock/{word}" for word in ("slot", "pool", "fleet", "template", "epoch", "holder", "attempt")
)
#: The template's container that runs `penstock worker`.
CONTAINER = "worker"
#: A worker that crashes ends its Job, and the next one has another fence. What a disruption ends is not counted.
BACKOFF_LIMIT = 0
#: Longest grace: node autoscalers end what takes longer than ten minutes.
LONGEST_GRACE_S = 600
#: What Kubernetes gives a pod that says nothing.
DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True)
class Template:
    """How the workers of one pool run."""

    pool: str
    pod: Mapping[str, Any]
    digest: str

    @property
    def grace_s(self) -> int:
        """What a worker gets to finish its work."""
        return int(self.pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))


@dataclass(frozen=True, slots=True)
class Owner:
    """The ConfigMap that stands for the fleet: what it owns goes when it goes."""

    name: str
    uid: str


def read_templates(folder: Path) -> dict[str, Template]:
    """The templates ``POOL.json`` in ``folder``, by pool. Raises ``ConfigError``, which names the file and the fix."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        return {path.stem: template(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the templates of workers cannot be read: {error}",
            fix=f"put one POOL.json for each pool into {folder} (autoscaler.kubernetes.templates), each a pod template",
        ) from None


def template(pool: str, pod: Any) -> Template:
    """Check and name one pod template. Raises ``ConfigError``."""
    fix = f"look at {pool}.json; the chart's are right: helm template deploy/helm/penstock"
    spec = pod.get("spec") if isinstance(pod, dict) else None
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(containers, list):
        raise ConfigError(f"the template of pool {pool} is no pod template: it has no spec.containers", fix=fix)
    if [each.get("name") for each in containers if isinstance(each, dict)].count(CONTAINER) != 1:
        raise ConfigError(f"the template of pool {pool} has no container `{CONTAINER}`", fix=fix)
    found = Template(pool, pod, hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()[:16])
    if not 0 < found.grace_s < LONGEST_GRACE_S:
        raise ConfigError(
            f"workers of pool {pool} have {found.grace_s} s to stop, and node autoscalers wait {LONGEST_GRACE_S} s",
            fix="terminationGracePeriodSeconds: longer than the longest batch (worker.drain_s), shorter than that",
        )
    return found


def job_name(slot: str, attempt: int) -> str:
    """The same for the same slot and attempt, so that a Job cannot be made twice. An id is never used again."""
    return f"penstock-{slot}-{attempt}"


def job(
    template: Template,
    *,
    slot: str,
    attempt: int,
    spec: Mapping[str, Any] = MappingProxyType({}),
    epoch: int,
    fleet: str,
    ttl_s: int,
    owner: Owner,
) -> dict[str, Any]:
    """The manifest of the Job for ``slot``.

    Its pod is replaced by Kubernetes when its node went, and only when it has ended (``podReplacementPolicy``), so that
    a slot never has two; all else ends the Job. ``spec`` is the slot's: a rollout's image and modules go in the place
    of the template's.
    """
    labels = {
        "app.kubernetes.io/name": "penstock",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "penstock-autoscaler",
        FLEET: fleet,
        POOL: template.pool,
        SLOT: slot,
    }
    pod = copy.deepcopy(dict(template.pod))
    metadata = pod.setdefault("metadata", {})
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    pod["spec"]["restartPolicy"] = "Never"  # a policy of failures demands it
    for container in pod["spec"]["containers"]:
        if container["name"] == CONTAINER:
            container["args"] = [*container.get("args", []), "--slot", slot]
            container["env"] = [*container.get("env", []), {"name": SLOT_FENCE, "value": job_name(slot, attempt)}]
            if image := spec.get("image"):
                container["image"] = image
            if models := spec.get("models"):  # of two of a name, the last one counts
                container["env"].append({"name": "PENSTOCK_MODELS", "value": json.dumps(models)})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(slot, attempt),
            "labels": {**labels, TEMPLATE: template.digest},
            "annotations": {EPOCH: str(epoch), ATTEMPT: str(attempt)},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": owner.name, "uid": owner.uid}],
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": BACKOFF_LIMIT,
            "podReplacementPolicy": "Failed",
            # Evictions, preemptions and drained nodes are nobody's fault, and six of them would end the Job.
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "ttlSecondsAfterFinished": ttl_s,
            "template": pod,
        },
    }
