"""Tenants' terms in SQL, on both databases."""

from __future__ import annotations

from penstock.policy.fairness import Terms
from penstock.store import Store


def test_terms_are_set_changed_and_removed(store: Store) -> None:
    assert store.tenants() == {}
    store.set_tenant("b", Terms(weight=0.25), now=1.0)
    store.set_tenant("ü a", Terms(weight=2.0, cap=3), now=1.0)
    store.set_tenant("b", Terms(weight=4.0, cap=1), now=2.0)
    assert store.tenants() == {"b": Terms(4.0, 1), "ü a": Terms(2.0, 3)}
    store.set_tenant("b", None, now=3.0)
    store.set_tenant("never", None, now=3.0)
    assert store.tenants() == {"ü a": Terms(2.0, 3)}
