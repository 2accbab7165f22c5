"""The environment in which a child process reads exactly our settings, wherever ours came from."""

from __future__ import annotations

import os

from penstock.settings import Settings


def child_env(settings: Settings) -> dict[str, str]:
    """Our environment, with every setting spelt out and nothing left for the child to find elsewhere."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    # No settings file either: what it says is in the variables, and flags that overruled it must stay overruled.
    return env | settings.environ() | {"PENSTOCK_CONFIG": os.devnull, "PYTHONUNBUFFERED": "1"}
