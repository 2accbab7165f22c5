"""Runs of pipelines in SQL: what a step's end lets happen is part of the transaction that ends it.

``conclude`` is the seam: whoever ends jobs passes through it. From there: ``advance`` (what can start now),
``release`` (a step becomes a job), ``maps`` (many at a time, and their counters), ``values`` (what has come out so
far), ``resolve`` (what a step is given, at its claim), ``closing`` (open steps of ended runs), ``again`` (a run goes on
from where it failed), ``tend`` (the dispatcher's part).
"""
