"""Real text that is on every machine: the language reference behind Python's ``help()``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Sentences of at most so many characters, about 20 tokens: one longer text keeps a core busy by itself.
TARGET_CHARS = 80
_MIN_WORDS = 4

#: What somebody would ask; each has its answer somewhere in the reference.
QUESTIONS = (
    "How do I catch several exceptions at once?",
    "What does the with statement do when the body raises?",
    "Which operator binds tighter, and or or?",
    "How can a class customise attribute access?",
    "What happens to a local variable after del?",
    "How do I format a number with thousands separators?",
    "What is the difference between is and ==?",
    "How does a generator receive a value from its caller?",
    "When is the else clause of a loop executed?",
    "How do I make my object usable as a dictionary key?",
    "What does the star mean in a function call?",
    "How do I set a breakpoint in the debugger?",
    "Which values are considered false?",
    "How are default parameter values evaluated?",
    "How do I write an asynchronous context manager?",
    "What is a metaclass and when is it called?",
    "How do f-strings evaluate their expressions?",
    "How do I import a module relative to the package?",
    "What does nonlocal do?",
    "How can I match a sequence pattern in a case block?",
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the reference: the help topic it stands in, and its text."""

    topic: str
    text: str

    def title(self, width: int = 90) -> str:
        """The passage on one line, cut to ``width``."""
        line = " ".join(word for word in self.text.split() if not re.fullmatch(r"[*=~^-]{3,}", word))
        return line if len(line) <= width else line[: width - 1] + "…"


def passages(limit: int | None = None, *, most_chars: int = TARGET_CHARS) -> list[Passage]:
    """The reference's sentences of at most so many characters, in a stable order; with a ``limit``, that many spread
    evenly over all of it."""
    from pydoc_data.topics import topics

    every = [Passage(topic, text) for topic in sorted(topics) for text in _sentences(topics[topic], most_chars)]
    # Some paragraphs stand under several topics; one of each is enough to find.
    found = list({passage.text: passage for passage in reversed(every)}.values())[::-1]
    if limit is None or limit >= len(found):
        return found
    return [found[place * len(found) // limit] for place in range(limit)]


def _sentences(text: str, most_chars: int) -> Iterator[str]:
    """Of every paragraph, without its line breaks; what has hardly a word carries no meaning and goes."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.:;!?])\s+(?=\S)", " ".join(paragraph.split())):
            if len(sentence) <= most_chars and len(re.findall(r"[^\W_]{2,}", sentence)) >= _MIN_WORDS:
                yield sentence
