"""Dispatch: how a request becomes a job, and how a job's message gets to the broker.

``service`` is what clients call: it validates (``request``, ``catalog``), commits to SQL (``groupcommit``: many
callers, one transaction) and publishes at once (``fastpath``); that they were published is recorded
a little later, in bulk (``marks``).
What could not be published waits in SQL, in the state ``accepted``, for the dispatcher: a service of its own that
relays, rescues and reconciles. In goes what a user typed, out comes a stored job; nothing here runs a model.
"""
