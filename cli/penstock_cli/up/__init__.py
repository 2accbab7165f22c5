"""Everything on this machine: ``penstock up`` as a library.

``Stack`` starts the embedded broker, the schema, the dispatcher, the workers and the dashboard as child processes,
watches them, and stops them in order. The demo and the tests use it as the command does::

    with Stack(settings, ["my_models"]) as stack:
        stack.wait_ready()
        ...

``plan`` decides what runs (pure), ``child`` runs one process, ``guardian`` stops orphans when this process is killed,
``state`` is the lock and the file by which a second ``up`` finds the first, ``probe`` looks at the models without
importing them here.
"""

from __future__ import annotations

from penstock_cli.up.stack import Stack
from penstock_cli.up.state import AlreadyRunning, State

__all__ = ["AlreadyRunning", "Stack", "State"]
