"""An expression as a person would write it: ``judge.score > 0.5``. For reading only; nothing reads it back. PURE.

Inputs are written ``$question``, other steps' outputs by their names, what a map is at ``item``.
"""

from __future__ import annotations

import json
from typing import Any

from penstock.pipelines.expression import Expression, word_of

#: Longest literal, and longest text of all, characters.
MAX_LITERAL, MAX_TEXT = 60, 400

_SIGNS = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "floordiv": "//",
    "mod": "%",
    "pow": "**",
    "and": "&",
    "or": "|",
    "xor": "^",
    "neg": "-",
    "pos": "+",
    "not": "~",
}


def infix(expression: Expression) -> str:
    """The text, on one line, at most ``MAX_TEXT`` characters of it."""
    return cut(_text(expression), MAX_TEXT)


def cut(text: str, width: int) -> str:
    """At most ``width`` characters, with an ellipsis where some are missing."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _text(here: Expression) -> str:
    word = word_of(here)
    if word is None:
        if isinstance(here, dict):
            return _joined("{", [f"{_literal(key)}: {_text(each)}" for key, each in _first(here.items())], here, "}")
        if isinstance(here, list):
            return _joined("[", [_text(each) for each in _first(here)], here, "]")
        return _literal(here)
    given = here[word]
    match word:
        case "$in":
            return f"${given}"
        case "$out":
            return str(given)
        case "$item":
            return "item" if given == 0 else f"item({given})"
        case "$lit":
            return _literal(given)
        case "$object":
            return f"{{{_literal(given[0])}: {_text(given[1])}}}"
        case "$get":
            of, key = given
            is_name = isinstance(key, str) and key.isidentifier()
            return f"{_operand(of)}.{cut(key, MAX_LITERAL)}" if is_name else f"{_operand(of)}[{_text(key)}]"
        case "$if":
            condition, one, other = given
            return f"{_operand(one)} if {_operand(condition)} else {_operand(other)}"
        case "$else":
            return " or else ".join(map(_operand, given))
        case "$first":
            count, values = given
            return f"first {count} of ({', '.join(map(_text, _first(values)))})"
    name, *operands = given
    return called(name, [_text(operands[0])] if name == "abs" else list(map(_operand, operands)))


def called(name: str, operands: list[str]) -> str:
    """An operator with its operands, as it is written: ``score > 0.5``."""
    if name == "abs":
        return f"abs({operands[0]})"
    return f"{_SIGNS[name]}{operands[0]}" if len(operands) == 1 else f" {_SIGNS[name]} ".join(operands)


def _operand(expression: Expression) -> str:
    text = _text(expression)
    return f"({text})" if word_of(expression) in ("$op", "$if", "$else") else text


def _first(values: Any) -> list[Any]:
    """Of a long list or object as many as may be shown, and one more, which is cut off: a part has a character."""
    return [each for each, _ in zip(values, range(MAX_TEXT + 1), strict=False)]


def _joined(begin: str, parts: list[str], of: Any, end: str) -> str:
    return f"{begin}{', '.join(parts)}{end}" if len(parts) == len(of) else f"{begin}{', '.join(parts)}, …{end}"


def _literal(value: Any) -> str:
    text = cut(json.dumps(value, ensure_ascii=False, default=str), MAX_LITERAL)
    # A terminal obeys some characters that JSON need not escape.
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
