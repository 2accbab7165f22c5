"""Says again what a command waits for, while nothing happens: a wait without a word looks like a command that hangs."""

from __future__ import annotations

import threading
from collections.abc import Collection

from penstock.clock import monotonic_s
from penstock.errors import PenstockError
from penstock_cli.context import App
from penstock_cli.jobview import seconds

#: After so long without news it is said for the first time, then after twice as long and so on, seconds.
FIRST_S, LONGEST_S = 30.0, 300.0
#: How long a command that has ended waits for a look at the database that is under way, seconds.
JOIN_S = 1.0


class Reminder:
    """For the length of a ``with``. ``news`` is called for whatever came; from then on it is quiet for a while."""

    def __init__(self, app: App, models: Collection[str]) -> None:
        self._app = app
        self._store = app.store  # made here: the thread is not the only one that may ask for it
        self.wait_for(models)
        self._ended = threading.Event()
        self._quiet_since = monotonic_s()
        self._thread = threading.Thread(target=self._run, name="penstock-reminder", daemon=True)

    def __enter__(self) -> Reminder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(JOIN_S)

    def wait_for(self, models: Collection[str]) -> None:
        """These are the models whose workers are waited for, from now on."""
        self._models = sorted(set(models))

    def news(self) -> None:
        """Something came."""
        self._quiet_since = monotonic_s()

    def _run(self) -> None:
        since, after_s = self._quiet_since, FIRST_S
        while not self._ended.wait(max(0.0, since + after_s - monotonic_s())):
            if self._quiet_since != since:
                since, after_s = self._quiet_since, FIRST_S
                continue
            self._say(monotonic_s() - since)
            after_s += min(after_s, LONGEST_S)

    def _say(self, quiet_s: float) -> None:
        out, waited = self._app.out, seconds(quiet_s)
        try:
            missing, text = self._look()
        except PenstockError as error:
            missing, text = True, error.message
        if self._ended.is_set():
            return
        if missing:
            out.warn(f"still waiting after {waited}: {text}")
        else:
            out.say(f"still waiting after {waited}: {text}")

    def _look(self) -> tuple[bool, str]:
        """Whether something is missing, and how it stands."""
        from penstock_cli.servers import check_broker
        from penstock_cli.serving import HOW, live_workers

        self._store.check()
        models = self._models
        serving = {model: live_workers(self._app, model) for model in models}
        unserved = [model for model in models if not serving[model]]
        if unserved:
            names = ", ".join(map(repr, unserved))
            return True, f"no worker serves {names} ({HOW})"
        check_broker(self._app.settings)
        if not models:
            return False, "no step that is left needs a worker"
        counts = ", ".join(
            f"{len(serving[model])} serve{'s' * (len(serving[model]) == 1)} {model!r}" for model in models
        )
        return False, f"of the workers, {counts}; `penstock queue stats` shows what is ahead"
