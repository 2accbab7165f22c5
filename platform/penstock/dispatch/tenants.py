"""Which weights and caps apply: the settings', and over them what was set by hand and stands in SQL.

Claims read a copy at the broker. Whoever sets terms pushes it at once; the dispatcher pushes it when the broker's data
is new to it, and now and then, so that what failed or was lost is mended.
"""

from __future__ import annotations

import redis

from penstock.policy.fairness import PLAIN, Terms
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.tenants import configure, configured


def terms_of(settings: Settings, store: Store) -> dict[str, Terms]:
    """The terms of every tenant that has any."""
    own = {name: Terms(tenant.weight, tenant.cap) for name, tenant in settings.tenants.items()}
    return own | store.tenants()


def push(settings: Settings, store: Store, client: redis.Redis) -> bool:
    """Give the broker the terms that apply; whether it had others."""
    wanted = {name: terms for name, terms in terms_of(settings, store).items() if terms != PLAIN}
    if configured(client, settings.namespace) == wanted:
        return False
    configure(client, settings.namespace, wanted)
    return True
