"""What would happen: the policies of production on imagined devices, PURE and as quick as the machine allows.

A discrete-event simulation on a clock of its own. The shells around the policies are copied in their rules, not in
their code: producers refuse by the ``Picture`` that they read ten times a second (``gate``), the broker deals the jobs
of a queue out to tenants (``broker``), a worker claims up to its quota, from that interactive queue whose head has
waited longest, its policy decides over the very ``Snapshot`` that a real one gets, jobs past their deadline fall out
when their batch is claimed, and every batch teaches the worker's ``LatencyBook`` (``worker``).

Not in it: the cost of the queue itself (``World.overhead_s`` is a stand-in), retries, failures, priorities, step-wise
models, and memory that does not hold all models. The same world, arrivals and state of ``rng`` (the noise of the
devices, and chance at the edge of admission) give the same result.
"""

from penstock.loadgen.simulator.engine import Outcome, denser, simulate, summary
from penstock.loadgen.simulator.world import MODEL, Device, Kind, World, make_policy

__all__ = ["MODEL", "Device", "Kind", "Outcome", "World", "denser", "make_policy", "simulate", "summary"]
