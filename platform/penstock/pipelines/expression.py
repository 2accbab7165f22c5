"""Values that are not known yet, as data: what a step is given, written in terms of inputs and other steps' outputs.

An expression is JSON. A list or an object stands for itself, with expressions in it; an object with one key that begins
with ``$`` means something:

====================================  ======================================================================
``{"$in": "question"}``               an input of the pipeline
``{"$out": "judge"}``                 the output of a step
``{"$item": 0}``                      what a ``map`` is at: 0 is the innermost
``{"$get": [of, key]}``               an element of a list, by a whole number, or of an object, by a text
``{"$op": ["gt", left, right]}``      an operator of Python's, by its name in ``OPERATORS``
``{"$if": [condition, one, other]}``  ``one`` where the condition holds; the other one is not even looked at
``{"$else": [one, other]}``           ``one``, or the other one where a step that it needs has failed
``{"$first": [count, [value, …]]}``   the list of the first ``count`` of them that have a value
``{"$lit": value}``                   the value as it is, whatever keys it has
``{"$object": [key, expression]}``    an object whose only key begins with ``$``
====================================  ======================================================================

Nothing else is ever evaluated: no code, no lambda, no template language. So a graph can be stored, hashed, sent by
strangers, and means the same after the next deploy.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from penstock.errors import InvalidInput, NoValue

Expression = Any

#: Deepest nesting of one expression, and the most parts that it may have.
MAX_DEPTH, MAX_PARTS = 64, 10_000
#: Longest text or list that an operator may make, and the largest whole number, bits.
MAX_LENGTH, MAX_BITS = 1_000_000, 4096
#: Most characters and elements of a value that holds another one more than once, and of all that operators make for it.
MAX_MADE = 16_000_000

WORDS = ("$in", "$out", "$item", "$get", "$op", "$if", "$else", "$first", "$lit", "$object")


def _logical(name: str) -> Callable[[Any, Any], Any]:
    by_name: dict[str, Callable[[Any, Any], Any]] = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}

    def apply(left: Any, right: Any) -> Any:
        if not (isinstance(left, int) and isinstance(right, int)):  # sets have these operators, too; JSON has no sets
            raise TypeError(f"{kind_of(left)} and {kind_of(right)} are not truth values")
        return by_name[name](left, right)

    return apply


def _not(value: Any) -> Any:
    if isinstance(value, bool):
        return not value  # in Python, ~True is -2
    return operator.invert(value)


def _multiply(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | list) and isinstance(other, int) and len(one) * other > MAX_LENGTH:
            raise ValueError(f"the result would be longer than {MAX_LENGTH:,}")
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_BITS:
        raise ValueError("the result would be too large a number")
    return left**right


def _remainder(left: Any, right: Any) -> Any:
    if isinstance(left, str):  # Python's formatting: a width is a length that nobody has checked
        raise TypeError("text has no remainder")
    return left % right


#: By name: how many operands, and what is done.
OPERATORS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "eq": (2, operator.eq),
    "ne": (2, operator.ne),
    "lt": (2, operator.lt),
    "le": (2, operator.le),
    "gt": (2, operator.gt),
    "ge": (2, operator.ge),
    "add": (2, operator.add),
    "sub": (2, operator.sub),
    "mul": (2, _multiply),
    "truediv": (2, operator.truediv),
    "floordiv": (2, operator.floordiv),
    "mod": (2, _remainder),
    "pow": (2, _power),
    "and": (2, _logical("and")),
    "or": (2, _logical("or")),
    "xor": (2, _logical("xor")),
    "neg": (1, operator.neg),
    "pos": (1, operator.pos),
    "abs": (1, abs),
    "not": (1, _not),
}


def word_of(expression: Expression) -> str | None:
    """The ``$`` word of an object that means something; raises ``InvalidInput`` for one that nobody knows."""
    if not isinstance(expression, dict) or len(expression) != 1:
        return None
    (word,) = expression
    if not isinstance(word, str) or not word.startswith("$"):
        return None
    if word not in WORDS:
        raise InvalidInput(f"no expression begins with {word!r:.80}", fix=f"use one of {', '.join(WORDS)}")
    return word


def check(expression: Expression) -> None:
    """Raise ``InvalidInput`` unless this is an expression, and one of a bounded size."""
    parts = 0
    waiting = [(expression, 0)]
    while waiting:
        here, depth = waiting.pop()
        parts += 1
        if depth > MAX_DEPTH or parts > MAX_PARTS:
            raise InvalidInput(
                f"an expression is nested deeper than {MAX_DEPTH} or has more than {MAX_PARTS:,} parts",
                fix="compute it in a step",
            )
        word = word_of(here)
        if word is not None:
            _check_word(word, here[word])
        waiting += [(each, depth + 1) for each in parts_of(here)]


def _check_word(word: str, given: Any) -> None:
    if word in ("$in", "$out"):
        good = isinstance(given, str)
    elif word == "$item":
        good = type(given) is int and given >= 0
    elif word in ("$get", "$else"):
        good = isinstance(given, list) and len(given) == 2
    elif word == "$op":
        known = isinstance(given, list) and bool(given) and isinstance(given[0], str) and given[0] in OPERATORS
        good = known and len(given) == 1 + OPERATORS[given[0]][0]
    elif word == "$if":
        good = isinstance(given, list) and len(given) == 3
    elif word == "$first":
        good = isinstance(given, list) and len(given) == 2 and type(given[0]) is int and isinstance(given[1], list)
        good = good and 1 <= given[0] <= len(given[1])
    elif word == "$object":
        good = isinstance(given, list) and len(given) == 2 and isinstance(given[0], str)
    else:
        good = True
    if not good:
        raise InvalidInput(f"{{{word!r}: {given!r:.100}}} is no expression", fix=_FORMS[word])


_FORMS = {
    "$in": '{"$in": NAME} names an input',
    "$out": '{"$out": STEP} names a step',
    "$item": '{"$item": 0} is what the innermost map is at',
    "$get": '{"$get": [OF, KEY]} takes an element',
    "$op": f'{{"$op": [NAME, …]}} has a name of {", ".join(OPERATORS)}, and its operands',
    "$if": '{"$if": [CONDITION, VALUE, OTHER]} chooses one of two',
    "$else": '{"$else": [VALUE, OTHER]} has another value for a failure',
    "$first": '{"$first": [COUNT, [VALUE, …]]} takes so many of them',
    "$lit": '{"$lit": VALUE} is any value',
    "$object": '{"$object": [KEY, VALUE]} is an object with one key',
}


def parts_of(expression: Expression) -> Sequence[Expression]:
    """The expressions that this one consists of."""
    word = word_of(expression)
    if word in ("$in", "$out", "$item", "$lit"):
        return ()
    if word in ("$get", "$if", "$else"):
        return tuple(expression[word])
    if word == "$first":
        return tuple(expression[word][1])
    if word in ("$op", "$object"):
        return tuple(expression[word][1:])
    if isinstance(expression, dict):
        return tuple(expression.values())
    return tuple(expression) if isinstance(expression, list) else ()


def named(expression: Expression, word: str) -> Iterator[Any]:
    """What the words of this kind name, in the order of the text: of ``"$out"`` the steps whose outputs are needed."""
    waiting = [expression]
    while waiting:
        here = waiting.pop()
        if word_of(here) == word:
            yield here[word]
        waiting += reversed(parts_of(here))


class Dead(Exception):
    """An expression will never have a value: the step of this name has failed."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


_NOBODY: Mapping[str, str] = {}


class _Everybody(Mapping[str, str]):
    """What has no output now will have none: for whoever asks what there is, not what is waited for."""

    def __getitem__(self, name: str) -> str:
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


_EVERYBODY = _Everybody()


def missing(
    expression: Expression,
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    items: Sequence[Any] | None = None,
    dead: Mapping[str, str] = _NOBODY,
) -> list[str]:
    """The steps without which the expression has no value yet, in the order of the text; none when it has one.

    ``dead`` are the steps that will never have an output, each with the one that has failed; raises ``Dead`` with that
    where the expression cannot do without one of them.

    Of a choice whose condition is not known, those of the condition alone: the branch that is not chosen is never
    waited for, and neither is one that may not be. A choice by the item of a ``map`` is made when there are items;
    before that (``None``), both branches are waited for. Raises as ``evaluate``.
    """
    found: dict[str, None] = {}
    waiting = [expression]
    while waiting:
        here = waiting.pop()
        word = word_of(here)
        if word == "$out" and here[word] not in outputs:
            if here[word] in dead:
                raise Dead(dead[here[word]])
            found[here[word]] = None
        elif word == "$else":
            one, other = here[word]
            try:
                found |= dict.fromkeys(missing(one, inputs=inputs, outputs=outputs, items=items, dead=dead))
            except Dead:
                waiting.append(other)
        elif word == "$first":
            found |= dict.fromkeys(_first(here[word], inputs=inputs, outputs=outputs, items=items, dead=dead))
        elif word == "$if":
            condition, one, other = here[word]
            if items is None and any(True for _ in named(condition, "$item")):
                waiting += (other, one, condition)
            elif first := missing(condition, inputs=inputs, outputs=outputs, items=items, dead=dead):
                found |= dict.fromkeys(first)
            else:
                holds = truth(evaluate(condition, inputs=inputs, outputs=outputs, items=items or ()))
                waiting.append(one if holds else other)
        else:
            waiting += reversed(parts_of(here))
    return list(found)


def _first(given: Any, **known: Any) -> list[str]:
    """What is missing of a choice of the first ones: nothing when there are enough, else what any of them waits for."""
    count, values = given
    there, found = 0, []
    end = Dead("")
    for each in values:
        try:
            names = missing(each, **known)
        except Dead as error:
            end = error
            continue
        there += not names
        found.append(names)
    if there >= count:
        return []
    if len(found) < count:
        raise end
    return [name for names in found for name in names]


def literal(value: Any) -> Expression:
    """The expression of a JSON value, whatever keys it has and however deep it is."""
    return {"$lit": value} if isinstance(value, dict | list) else value


def evaluate(
    expression: Expression, *, inputs: Mapping[str, Any], outputs: Mapping[str, Any], items: Sequence[Any] = ()
) -> Any:
    """The value. ``items`` are what the maps around are at, the innermost first.

    Raises ``NoValue`` for what has no value: an element that is not there, an operator whose operands do not fit.
    """

    used: set[tuple[str, Any]] = set()
    made, repeats = 0, False

    def of(here: Expression) -> Any:
        nonlocal made, repeats
        word = word_of(here)
        if word is None:
            if isinstance(here, dict):
                return {key: of(each) for key, each in here.items()}
            return [of(each) for each in here] if isinstance(here, list) else here
        given = here[word]
        if word in ("$in", "$out", "$item"):
            repeats |= (word, given) in used
            used.add((word, given))
        if word in ("$in", "$out"):
            return (inputs if word == "$in" else outputs)[given]
        if word in ("$lit", "$item"):
            return given if word == "$lit" else items[given]
        if word == "$if":
            condition, one, other = given
            return of(one if truth(of(condition)) else other)
        if word == "$else":
            one, other = given
            return of(one if _there(one, inputs=inputs, outputs=outputs, items=items) else other)
        if word == "$first":
            count, values = given
            there = (each for each in values if not _absent(each, inputs=inputs, outputs=outputs, items=items))
            return [of(each) for each, _ in zip(there, range(count), strict=False)]
        values = [of(each) for each in parts_of(here)]
        if word == "$object":
            return {given[0]: values[0]}
        if word == "$get":
            return _element(*values)
        result = _apply(given[0], values)
        if isinstance(result, str | list):
            made += len(result)
            repeats |= isinstance(result, list)
            if made > MAX_MADE:
                raise _too_much()
        return result

    result = of(expression)
    # In memory it may be one value a million times; as JSON it is a million values.
    if repeats and _is_larger(result, MAX_MADE):
        raise _too_much()
    return result


def _too_much() -> NoValue:
    return NoValue(f"it makes more than {MAX_MADE:,} characters and elements of what it is given")


def _is_larger(value: Any, most: int) -> bool:
    """Whether a value has more characters and elements than that, counted no further."""
    waiting = [value]
    while waiting and most >= 0:
        here = waiting.pop()
        if isinstance(here, str):
            most -= len(here)
        elif isinstance(here, list):
            most -= len(here)
            waiting += here if most >= 0 else ()
        elif isinstance(here, dict):
            most -= len(here) + sum(map(len, here))
            waiting += here.values() if most >= 0 else ()
    return most < 0


def _there(expression: Expression, **known: Any) -> bool:
    """Whether it has a value with what has come out: not all that it names, of a choice one branch is enough."""
    try:
        return not missing(expression, dead=_EVERYBODY, **known)
    except Dead:
        return False


def _absent(expression: Expression, **known: Any) -> bool:
    return bool(missing(expression, **known))


def _element(of: Any, key: Any) -> Any:
    if isinstance(of, dict) and isinstance(key, str):
        if key in of:
            return of[key]
        keys = ", ".join(repr(each)[:40] for each in list(of)[:8])
        raise NoValue(f"there is no {key!r:.80} in an object with {keys or 'nothing'}")
    if isinstance(of, list | str) and type(key) is int:
        if -len(of) <= key < len(of):
            return of[key]
        raise NoValue(f"there is no element {key} in {kind_of(of)} of {len(of)}")
    raise NoValue(f"{kind_of(of)} has no element {key!r:.80}")


def _apply(name: str, values: Sequence[Any]) -> Any:
    try:
        result = OPERATORS[name][1](*values)
    except (TypeError, ValueError, ArithmeticError) as error:
        kinds = ", ".join(map(kind_of, values))
        raise NoValue(f"{name!r} of {kinds} has no value: {error}") from None
    except RecursionError:
        raise NoValue(f"{name!r} is of too many values inside each other") from None
    if isinstance(result, complex) or (isinstance(result, float) and result - result != 0.0):
        raise NoValue(f"{name!r} of {', '.join(map(repr, values))} is no number that JSON has")
    if isinstance(result, int) and result.bit_length() > MAX_BITS:
        raise NoValue(f"{name!r} makes a number of more than {MAX_BITS:,} bits")
    if isinstance(result, str | list) and len(result) > MAX_LENGTH:
        raise NoValue(f"{name!r} makes {kind_of(result)} longer than {MAX_LENGTH:,}")
    return result


def truth(value: Any) -> bool:
    """Whether a condition holds; raises ``NoValue`` for what is neither true nor false."""
    if not isinstance(value, bool):
        raise NoValue(f"a condition is {kind_of(value)}, neither true nor false: compare it, as in `score > 0.5`")
    return value


def kind_of(value: Any) -> str:
    """What a value is, for a person."""
    names = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")
