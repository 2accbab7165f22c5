"""Workers as Kubernetes Jobs, one Job per slot. Needs the extra ``kubernetes``.

::

    rows of slots --+
                    +--> plan (pure) --> api: make, delete --> Jobs --> pods: `penstock worker --slot ID`
    mirror (watch) -+         |                                  |
         ^                    +--> gone, placed, stuck           |
         +-------------------------------------------------------+

``manifest`` writes a Job, ``seen`` reads one, ``plan`` decides, ``api`` and ``mirror`` talk to the cluster, ``backend``
goes the round. Who stops is decided by rows alone: a worker whose row says so drains and exits 0, which ends its Job.

A leader that was stopped and wakes up changes nothing: its epoch is compared with the mark that its successor left at
the fleet's ConfigMap and with every Job that it would touch, names of Jobs are made of ids that are never used again,
and a worker without a slot does not consume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.errors import ConfigError, install

if TYPE_CHECKING:
    from penstock.autoscaler.backends.kubernetes.backend import KubernetesBackend
    from penstock.poolsettings import KubernetesSettings
    from penstock.store.elastic import Elastic


def connect(settings: KubernetesSettings, *, fleet: str, elastic: Elastic) -> KubernetesBackend:
    """The backend for the cluster in which this runs, or else for that of the kubeconfig.

    ``fleet`` tells the Jobs of this deployment from others' in the namespace: ``settings.namespace``. Raises
    ``ConfigError`` without the library, a cluster or templates.
    """
    try:
        from penstock.autoscaler.backends.kubernetes import connecting
    except ImportError as error:
        raise ConfigError("the backend `kubernetes` needs lightkube", fix=install("kubernetes")) from error
    return connecting.connect(settings, fleet=fleet, elastic=elastic)
