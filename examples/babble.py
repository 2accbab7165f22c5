"""Text that streams: ``penstock up examples/babble.py``, then ``python examples/babble.py``.

A tiny generator, letter by letter: after three letters comes one that has followed them in the Zen of Python. One step
writes one letter of every text in the group, newcomers join between two steps, and each letter is told at once.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import random
from typing import TypedDict

import penstock

with contextlib.redirect_stdout(io.StringIO()):
    import this  # prints the Zen when it is imported

ZEN = codecs.decode(this.s, "rot13")
LETTERS = 120


class Text(TypedDict):
    """One text in the making."""

    written: str
    chance: random.Random


class Babble(penstock.StepModel):
    """Goes on with a text, in the manner of the Zen of Python."""

    name = "babble"
    batching = penstock.Batching(max_size=16)

    def load(self, device: str) -> None:
        self.follows: dict[str, str] = {}
        for place in range(len(ZEN) - 3):
            self.follows[ZEN[place : place + 3]] = self.follows.get(ZEN[place : place + 3], "") + ZEN[place + 3]

    def begin(self, batch: list[str]) -> list[Text | None]:
        state: list[Text | None] = []
        self.join(state, batch)
        return state

    def join(self, state: list[Text | None], batch: list[str]) -> None:
        state += [Text(written=start, chance=random.Random(start)) for start in batch]

    def step(self, state: list[Text | None]) -> dict[int, str | penstock.Progress]:
        answers: dict[int, str | penstock.Progress] = {}
        for index, text in enumerate(state):
            if text is None:
                continue
            if len(text["written"]) >= LETTERS:
                answers[index] = text["written"]
                continue
            letter = text["chance"].choice(self.follows.get(text["written"][-3:], " "))
            text["written"] += letter
            answers[index] = penstock.Progress(letter)
        return answers

    def finish(self, state: list[Text | None], index: int) -> None:
        state[index] = None  # its place stays: indices are never used again


def main() -> None:
    with penstock.Client() as client:
        job = client.enqueue("babble", "Beautiful is ")
        letters = [event.data["progress"] for event in job.stream() if event.kind == "progress"]
        print("Beautiful is " + "".join(letters))
        print(job.result() == "Beautiful is " + "".join(letters))


if __name__ == "__main__":
    main()
