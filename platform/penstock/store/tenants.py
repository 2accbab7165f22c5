"""Weights and caps of tenants, as set by hand."""

from __future__ import annotations

from penstock.policy.fairness import Terms
from penstock.store.engine import Database, Survives

_ALL = "SELECT name, weight, cap FROM penstock_tenant ORDER BY name"
_SET = """
    INSERT INTO penstock_tenant (name, weight, cap, updated_at) VALUES (:name, :weight, :cap, :now)
    ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, cap = excluded.cap, updated_at = excluded.updated_at"""
_REMOVE = "DELETE FROM penstock_tenant WHERE name = :name"


def tenants(db: Database) -> dict[str, Terms]:
    """See ``Store.tenants``."""
    with db.read() as session:
        return {name: Terms(weight, cap) for name, weight, cap in session.all(_ALL)}


def set_tenant(db: Database, name: str, terms: Terms | None, *, now: float) -> None:
    """See ``Store.set_tenant``."""
    with db.step(Survives.POWER) as session:
        if terms is None:
            session.run(_REMOVE, {"name": name})
        else:
            session.run(_SET, {"name": name, "weight": terms.weight, "cap": terms.cap, "now": now})
