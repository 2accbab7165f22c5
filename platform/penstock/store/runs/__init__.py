"""Runs of pipelines in SQL: what a step's end lets happen is part of the transaction that ends it.

``conclude`` is the seam: whoever ends jobs passes through it. From there: ``advance`` and ``moves`` (what can start
now), ``release`` (a step becomes a job), ``maps`` (many at a time, and their counters), ``following`` (of a map of a
map, element by element), ``inner`` and ``first`` (a run within a run), ``waits`` (without a worker), ``tasks`` (by
workers of other programs), ``ends``, ``values`` (what has come out so far), ``resolve`` (what a step is given, at its
claim), ``closing`` (open steps of ended runs), ``todo`` (what a transaction leaves to another one), ``again`` (a run
goes on from where it failed), ``fork`` (a new one takes over what it has done), ``expand`` (a step that answers with
steps), ``slots`` and ``purse`` (how much is in flight, and what it may take), ``tend`` (the dispatcher's part).
``standing`` and ``cost`` tell how far a run is, and what it has taken.
"""
