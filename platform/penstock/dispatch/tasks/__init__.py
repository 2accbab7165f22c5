"""Plain Celery tasks in runs: steps that workers run which know nothing of penstock.

``routing`` asks the program's app how it would send them, when a canvas is submitted. ``sender`` sends them, once they
can begin. ``returns`` hears of their ends through ``link`` and ``link_error``, ``watch`` through the result backend,
and gives up on those of which nobody hears. ``results`` asks it within bounds of time: which one it is say
``backends``, ``readers`` read it, and what is there means what ``endings`` say.
"""
