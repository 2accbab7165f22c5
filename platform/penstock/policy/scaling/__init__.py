"""How many workers a pool wants: a pure decision of what was seen, what is there, and what was decided before.

``decide(Context)`` gives a ``Decision``: the target, what to park, the state for the next decision, and the reason.
"""

from penstock.policy.scaling.decide import decide
from penstock.policy.scaling.state import State
from penstock.policy.scaling.terms import Context, Decision, Fleet, Load, Terms
from penstock.policy.scaling.victims import Candidate, victims
from penstock.policy.scaling.words import kind_of

__all__ = ["Candidate", "Context", "Decision", "Fleet", "Load", "State", "Terms", "decide", "kind_of", "victims"]
