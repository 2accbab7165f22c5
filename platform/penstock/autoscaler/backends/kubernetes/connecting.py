"""From settings to a backend."""

from __future__ import annotations

from pathlib import Path

import httpx2
from lightkube import AsyncClient, Client, KubeConfig
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError as NoCluster

from penstock.autoscaler.backends.kubernetes.api import Api
from penstock.autoscaler.backends.kubernetes.backend import KubernetesBackend
from penstock.autoscaler.backends.kubernetes.manifest import read_templates
from penstock.autoscaler.backends.kubernetes.mirror import Mirror
from penstock.errors import ConfigError
from penstock.poolsettings import KubernetesSettings
from penstock.store.elastic import Elastic

#: Limit on one call, seconds: a pass has many, and a leader's lease ends meanwhile.
TIMEOUT_S = 5.0


def connect(settings: KubernetesSettings, *, fleet: str, elastic: Elastic) -> KubernetesBackend:
    """See ``penstock.autoscaler.backends.kubernetes.connect``."""
    templates = read_templates(Path(settings.templates))
    config = _config()
    timeout = httpx2.Timeout(TIMEOUT_S)

    def watching() -> AsyncClient:
        return AsyncClient(config=config, namespace=settings.namespace, timeout=timeout)

    return KubernetesBackend(
        Api(Client(config=config, namespace=settings.namespace, timeout=timeout), fleet=settings.fleet),
        Mirror(watching, fleet=fleet),
        templates,
        elastic=elastic,
        fleet=fleet,
        ttl_s=settings.keep_s,
    )


def _config() -> SingleConfig:
    try:
        config = KubeConfig.from_env().get()
    except (NoCluster, OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"there is no cluster to talk to: {error}",
            fix="run the autoscaler in a pod with a service account (the chart does), or set KUBECONFIG",
        ) from error
    if config is None:
        raise ConfigError("the kubeconfig names no current context", fix="kubectl config use-context NAME")
    return config if config.user is not None else config._replace(user=User())
