"""Runs of pipelines in SQL: what a step's end lets happen is part of the transaction that ends it.

Whoever ends jobs passes through ``conclude``. From there, a room in five parts:

- **Deciding**: ``advance`` (many runs together) and ``moves`` (one of them: what can start, or how it ends), from
  ``stepstates`` (which steps have ended) and ``values`` (with what output); ``ends`` stores the ends of runs.
- **Beginning steps**: ``release`` (a step becomes a job), ``maps`` (many at a time, and their counters), ``following``
  (a map of a map, element by element), ``inner`` and ``first`` (a run within a run), ``expand`` (a step that answers
  with steps), ``waits`` (without a worker), ``tasks`` (by workers of other programs); ``slots`` and ``budget`` bound
  it, ``slack`` says how urgent each is.
- **What a step is given**: ``athand`` (with its message, where it is short), ``resolve`` (from SQL, at its claim).
- **A run's own life**: ``start``, ``again`` (it goes on from where it failed), ``fork`` (a new one takes over what
  another has done), ``pins`` (with which versions), ``retries`` (of a step), ``closing`` (what is still open when it
  ends); ``todo`` (left to another transaction), ``tend`` and ``unserved`` (the dispatcher's part).
- **What is told of it**: ``standing`` (how far it is), ``cost`` (what it has taken), ``within`` (whose step it is).

``run`` and ``plans`` read a run's row and its graph; ``paths``, ``bounds`` and ``listcache`` are small tools.
"""
