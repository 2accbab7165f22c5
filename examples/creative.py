"""A line that is written, judged and written again: ``penstock up examples/creative.py``, then ``python creative.py``.

The models are tiny and real: a writer that learned from Python's language reference which word follows which, a judge
that knows which three follow each other there, and one that finds a title, if there is one. A person has the last word.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pydoc_data.topics import topics
from typing import Any

import penstock

#: Longest line, words, and how often the writer forgets all words but the last one.
WORDS, LEAPS = 12, 0.2


@dataclass
class Wish:
    """What to write: a line about a word, which goes on after ``keep``, and is not ``last`` again."""

    about: str
    keep: str = ""
    last: str = ""


class Write(penstock.Model):
    """Goes on with the words that follow two others in the language reference, or one other when it leaps."""

    name = "write"

    def load(self, device: str) -> None:
        self.follows: defaultdict[str, list[str]] = defaultdict(list)
        for words in sentences():
            for one, following in pairwise(words):
                self.follows[one].append(following)
            for one, other, following in triples(words):
                self.follows[f"{one} {other}"].append(following)

    def predict(self, batch: list[Wish]) -> list[str | Exception]:
        return [self._line(wish) for wish in batch]

    def _line(self, wish: Wish) -> str | Exception:
        if wish.about not in self.follows:
            return ValueError(f"the language reference says nothing of {wish.about!r}")
        chance = random.Random(f"{wish.about} {wish.keep} {wish.last}")  # the same wish twice is the same line
        words = wish.keep.split() or [wish.about]
        while len(words) < WORDS:
            pair = " ".join(words[-2:])
            known = pair if pair in self.follows and chance.random() > LEAPS else words[-1]
            if known not in self.follows:
                break
            words.append(chance.choice(self.follows[known]))
        return " ".join(words)


class Judge(penstock.Model):
    """The share of a line that is good: all before three words in a row that the language reference does not have."""

    name = "judge"

    def load(self, device: str) -> None:
        self.known = {triple for words in sentences() for triple in triples(words)}

    def predict(self, batch: list[str]) -> list[dict[str, Any]]:
        return [self._verdict(text.split()) for text in batch]

    def _verdict(self, words: list[str]) -> dict[str, Any]:
        found = [triple in self.known for triple in triples(words)]
        first = found.index(False) if False in found else len(words) - 1
        return {"score": (first + 1) / max(1, len(words)), "good": " ".join(words[: first + 1])}


class Title(penstock.Model):
    """The longest word of a line, but for its first one, that is long and often used; not every line has one."""

    name = "title"

    def load(self, device: str) -> None:
        self.counts = Counter(word for words in sentences() for word in words)

    def predict(self, batch: list[str]) -> list[str | Exception]:
        titles: list[str | Exception] = []
        for text in batch:
            often = [word for word in text.split()[1:] if self.counts[word] >= 100 and len(word) > 7]
            titles.append(max(often, key=len).title() if often else ValueError("no word of it is a title"))
        return titles


@penstock.step
def first_word(text: str) -> str:
    """A title for what has none."""
    return text.split()[0].title()


@penstock.step
def better(one: str, other: str, one_score: float, other_score: float) -> str:
    """The line with the higher score."""
    return one if one_score >= other_score else other


@penstock.pipeline
def compose(about: str) -> Any:
    """A line about a word that the judge likes and a person has approved; null for one that nobody wants."""
    line = penstock.refine(
        lambda last, verdict: Write(about=about) if last is None else Write(about=about, keep=verdict.good, last=last),
        lambda last: Judge(last),
        until=lambda verdict: verdict.score > 0.9,
        max_rounds=6,
    )
    title = penstock.fallback(Title(line), first_word(line))
    decision = penstock.wait_for("approval", timeout=86_400, after=[title, line])
    return penstock.when(decision == "yes", {"title": title, "line": line}, None)


@cache
def sentences() -> list[list[str]]:
    """The words of the sentences behind Python's ``help()``."""
    text = " ".join(topics.values()).lower()
    return [re.findall(r"[a-z]+", sentence) for sentence in re.split(r"[.:;!?]\s", text)]


def triples(words: list[str]) -> list[tuple[str, str, str]]:
    """Each three words in a row."""
    return list(zip(words, words[1:], words[2:], strict=False))


def main() -> None:
    with penstock.Client() as client:
        run = client.enqueue(compose, {"about": "exception"})
        # A person would look first: `penstock job get RUN` shows the steps, and each of them its output.
        client.signal(run, "approval", "yes", id="ann-1")
        made = run.result(timeout=60)
        print(f"{made['title']}: {made['line']}")


if __name__ == "__main__":
    main()
