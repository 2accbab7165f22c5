"""Traffic and what becomes of it: arrivals, a load generator for a live system, a simulator for an imagined one.

::

    arrivals (pure) ──► generator (asyncio, a live system) ──┐
        │                                                    ├──► tally (pure) ──► plot
        └────────────► simulator (pure, fake clock) ─────────┘

``penstock bench load`` and the benchmarks call the generator, ``benchmarks/simulate.py`` the simulator. Both take the
same schedule and give the same report, so that an answer of the simulator can be held against a measurement.
"""
