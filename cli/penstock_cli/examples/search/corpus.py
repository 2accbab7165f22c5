"""Real text that is on every machine: the language reference behind Python's ``help()``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: Passages are packed up to this many characters: about 100 tokens, well under the model's 256.
TARGET_CHARS = 400
_MIN_WORDS = 5

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


def passages(limit: int | None = None) -> list[Passage]:
    """The reference in passages, in a stable order; with a ``limit``, that many spread evenly over all of it."""
    from pydoc_data.topics import topics

    every = [Passage(topic, text) for topic in sorted(topics) for text in _pack(_pieces(topics[topic]))]
    # Some paragraphs stand under several topics; one of each is enough to find.
    found = list({passage.text: passage for passage in reversed(every)}.values())[::-1]
    if limit is None or limit >= len(found):
        return found
    return [found[place * len(found) // limit] for place in range(limit)]


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs; of a long one its sentences, and of a long sentence (a table, say) its lines."""
    for paragraph in re.split(r"\n\s*\n", text):
        if len(paragraph) <= TARGET_CHARS:
            yield paragraph.strip("\n")
            continue
        for sentence in re.split(r"(?<=[.:;])\s+(?=\S)", paragraph.strip("\n")):
            yield from [sentence] if len(sentence) <= TARGET_CHARS else sentence.splitlines()


def _pack(pieces: Iterable[str]) -> Iterator[str]:
    """Neighbours joined up to the target. Underlines and stray fragments carry no meaning and go."""
    held = ""
    for piece in pieces:
        if held and len(held) + len(piece) > TARGET_CHARS:
            yield from _meaningful(held)
            held = ""
        held = f"{held}\n{piece}" if held else piece
    yield from _meaningful(held)


def _meaningful(text: str) -> Iterator[str]:
    if len(re.findall(r"[^\W_]{2,}", text)) >= _MIN_WORDS:
        yield text
