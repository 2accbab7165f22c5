"""The Lua scripts: everything that must be atomic over several keys. Each file opens with its key layout.

Redis scripts cannot import: what several of them share stands in a file of its own and is put before their text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis

from penstock.transport.wire import Arg, Wire, pack


class Script:
    """One script of ``lua/``, run by its digest.

    A server that does not know it (after a restart, a failover or ``SCRIPT FLUSH``) is sent the text.
    """

    def __init__(self, name: str, *shared: str) -> None:
        self.name = name
        self.text = "".join(_read(part) for part in (*shared, name))
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, wire: Wire, keys: Sequence[Arg], args: Sequence[Arg]) -> Any:
        """Run it and wait for the answer. Never sent twice: see ``claims``."""
        try:
            return wire([self.command(keys, args)])[0]
        except redis.exceptions.NoScriptError:
            return wire([pack("EVAL", self.text, len(keys), *keys, *args)])[0]

    def command(self, keys: Sequence[Arg], args: Sequence[Arg]) -> bytes:
        """The packed command that runs it; a server that does not know the script answers NOSCRIPT."""
        return pack("EVALSHA", self.sha, len(keys), *keys, *args)

    def load(self, wire: Wire) -> None:
        """Make the script known to the server."""
        wire([pack("SCRIPT", "LOAD", self.text)])


def _read(name: str) -> str:
    return files("penstock.transport").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


CLAIM = Script("claim", "tenants", "fair")
GIVE_BACK = Script("give_back", "tenants")
RESTORE = Script("restore", "tenants")
SETTLE = Script("settle", "tenants")
CENSUS = Script("census", "tenants")
DEPTHS = Script("depths", "tenants")
STANDINGS = Script("standings", "tenants")
PURGE = Script("purge", "tenants", "fair")
CONFIGURE = Script("configure", "tenants")
SEND = Script("send")
MEND = Script("mend")
TELL = Script("tell")
WORK = Script("work", "tenants")
