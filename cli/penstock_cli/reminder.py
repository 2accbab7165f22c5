"""Says again what a command waits for, while nothing happens: a wait without a word looks like a command that hangs."""

from __future__ import annotations

from collections.abc import Collection

from penstock.clock import monotonic_s
from penstock.errors import PenstockError
from penstock.service import ThreadService
from penstock_cli.context import App
from penstock_cli.jobview import seconds

#: After so long without news it is said for the first time, then after twice as long and so on, seconds.
FIRST_S, LONGEST_S = 30.0, 300.0
#: How long a command that has ended waits for a look at the database that is under way, seconds.
JOIN_S = 1.0


class Reminder(ThreadService):
    """For the length of a ``with``. ``news`` is called for whatever came; from then on it is quiet for a while."""

    def __init__(self, app: App, models: Collection[str]) -> None:
        super().__init__("reminder")
        self._app = app
        self._store = app.store  # made here: the thread is not the only one that may ask for it
        self.wait_for(models)
        self._quiet_since = monotonic_s()

    def __enter__(self) -> Reminder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(JOIN_S)

    def wait_for(self, models: Collection[str]) -> None:
        """These are the models whose workers are waited for, from now on."""
        self._models = sorted(set(models))

    def news(self) -> None:
        """Something came."""
        self._quiet_since = monotonic_s()

    def run(self) -> None:
        """Say it again and again."""
        since, after_s = self._quiet_since, FIRST_S
        while not self.stopping.wait(max(0.0, since + after_s - monotonic_s())):
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
        if self.stopping.is_set():
            return
        if missing:
            out.warn(f"still waiting after {waited}: {text}")
        else:
            out.say(f"still waiting after {waited}: {text}")

    def _look(self) -> tuple[bool, str]:
        """Whether something is missing, and how it stands."""
        from penstock_cli.servers import check_broker
        from penstock_cli.serving import HOW, coming, live_workers

        self._store.check()
        models = self._models
        serving = {model: live_workers(self._app, model) for model in models}
        stands = [coming(self._app, model) for model in models if not serving[model]]
        if missing := [text for missing, text in stands if missing]:
            return True, f"{'; '.join(missing)} ({HOW})"
        if stands:
            return False, "; ".join(text for _, text in stands)
        check_broker(self._app.settings)
        if not models:
            return False, "no step that is left needs a worker"
        counts = ", ".join(
            f"{len(serving[model])} serve{'s' * (len(serving[model]) == 1)} {model!r}" for model in models
        )
        return False, f"of the workers, {counts}; `penstock queue stats` shows what is ahead"
