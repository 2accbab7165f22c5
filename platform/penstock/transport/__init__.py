"""Transport: jobs as messages in Redis.

In: jobs that are committed in SQL (``publisher``). Out: batches of claimed messages for a worker (``redis``, a kombu
transport, so that a stock Celery worker runs on it). The broker is a fast path and SQL is the truth: whatever is lost
here is published again, and whatever arrives twice is harmless.

``keys`` lists every Redis key, ``message`` is the form of a message, ``claims`` with ``lua/`` is the protocol by which
messages change hands, ``redis`` and ``channel`` fit it into kombu, ``inspect`` looks on, ``embedded`` runs
a server of our own, ``url`` reads broker URLs, ``wire`` sends commands cheaply.
"""
