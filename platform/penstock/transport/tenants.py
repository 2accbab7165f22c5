"""The tenants' weights and caps at the broker, where every claim reads them, and what each tenant has used.

SQL and the settings say what they are (``dispatch.tenants``); the broker has a copy, which a wipe loses.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import redis

from penstock.policy.fairness import PLAIN, Terms
from penstock.transport import keys
from penstock.transport.mend import mended, number
from penstock.transport.scripts import CONFIGURE
from penstock.transport.wire import Arg, Wire


def configure(client: redis.Redis, namespace: str, terms: Mapping[str, Terms]) -> None:
    """Set the terms of all tenants, from the next claim on. Who is not named has weight 1 and no cap."""
    args: list[Arg] = [keys.tenants(namespace), keys.unacked_prefix(namespace)]
    for tenant, one in terms.items():
        if one != PLAIN:
            args += [keys.tenant_id(tenant), one.weight, "" if one.cap is None else one.cap]
    CONFIGURE(Wire(client, namespace), [keys.consumers(namespace)], args)


def configured(client: redis.Redis, namespace: str) -> dict[str, Terms]:
    """The terms that claims go by now, of those tenants that have any."""
    weights: Any = mended(client, namespace, lambda: client.hgetall(keys.weights(namespace)))
    caps: Any = mended(client, namespace, lambda: client.hgetall(keys.caps(namespace)))
    found = {}
    for id, weight in weights.items():
        # Text that is no number is none that was set: the terms are then pushed again.
        cap = int(number(caps.get(id)))
        found[keys.tenant_of_id(id.decode(errors="replace"))] = Terms(
            max(number(weight), sys.float_info.min), cap if cap >= 1 else None
        )
    return found


def used_s(client: redis.Redis, namespace: str) -> dict[str, float]:
    """Device seconds per tenant since the broker's data set began."""
    used: Any = mended(client, namespace, lambda: client.hgetall(keys.used(namespace)))
    return {keys.tenant_of_id(id.decode(errors="replace")): number(seconds) for id, seconds in used.items()}
