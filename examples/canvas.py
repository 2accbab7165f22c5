"""A model in plain Celery code, with ``shout.py`` served: ``penstock up examples/shout.py``, then ``python canvas.py``.

A model's ``.s()`` is a Celery signature. It goes into chains, groups and chords beside ordinary tasks, in both
directions, and its members are batched like everything else.
"""

from __future__ import annotations

from celery import chain, group
from shout import shout

from penstock.app import make_celery
from penstock.settings import Settings


def main() -> None:
    app = make_celery(Settings.load())
    app.set_current()  # where `apply_async` sends to, and results come from
    print(chain(shout.s("hello"), shout.s()).apply_async().get(timeout=60))
    print(group(shout.s(word) for word in ("one", "two")).apply_async().get(timeout=60))
    app.close()


if __name__ == "__main__":
    main()
