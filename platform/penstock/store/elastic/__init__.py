"""Elasticity in SQL: who leads, the slots of workers, and what was seen and decided.

In: the leader's wishes (``change``), what backends note of the processes that realise them (``place``, ``gone``), what
workers say of themselves (``take``, ``ready``, ``leave``), what is kept for people and plans (``record``, ``changed``),
and what people want the workers of a pool to be (``roll``, ``steer``, ``undo``). Out: rows. What a leader writes is
guarded by its term in the same transaction: one that was stopped, and goes on when another leads, changes nothing.

Read on: ``verbs`` (the promises), ``leader``, ``slots``, ``rollouts``, ``records`` (their statements).
"""

from penstock.policy.leadership import AUTOSCALER
from penstock.store.elastic.leader import Leadership, Term
from penstock.store.elastic.records import Change, Minute
from penstock.store.elastic.rollouts import RolloutOf
from penstock.store.elastic.slots import NewSlot, Slot
from penstock.store.elastic.verbs import Elastic

__all__ = ["AUTOSCALER", "Change", "Elastic", "Leadership", "Minute", "NewSlot", "RolloutOf", "Slot", "Term"]
