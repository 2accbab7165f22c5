"""The dashboard: Flower, set up from our settings.

Flower shows workers, tasks as they run, and the true length of every queue. It keeps what it shows in memory, fed by
Celery's events; the truth about a job is in SQL (``penstock job get``). Its options are globals of its process, so it
runs in a process of its own: ``penstock dashboard``. ``guard`` decides who may see it, ``server`` runs it.

``/metrics`` and ``/healthcheck`` never ask for a login: that is Flower's choice, and monitoring relies on it.
"""

from __future__ import annotations
