"""What the questions' runs did, step by step, as SQL has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock import Job, RunCost
from penstock.store import Store
from penstock.store.runs.standing import RunStanding
from penstock_cli.examples.search.traffic import Answer
from penstock_cli.runview import critical_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: how its steps stand, and their jobs by name."""

    run: Job
    standing: RunStanding
    steps: dict[str, Job]
    cost: RunCost

    @property
    def critical(self) -> list[Job]:
        """The steps that decided when it ended, one after the other."""
        return [self.steps[name] for name in critical_path(self.run, self.standing)]

    @property
    def vector(self) -> list[float]:
        """What its step ``embed`` gave."""
        vector: list[float] = self.steps["embed"].output
        return vector


def read(store: Store, id: str) -> Run:
    """A run that has succeeded."""
    steps = {str(step.path): step for step in store.list(run=id)}
    return Run(run=store.get(id), standing=store.run_standing(id), steps=steps, cost=store.run_cost(id))


def typical(answers: Sequence[Answer]) -> str:
    """The run to show: the one in the middle by latency, of those beside which passages were embedded if there are."""
    shown = sorted([each for each in answers if each.beside] or answers, key=lambda each: each.latency_s)
    return shown[len(shown) // 2].id
