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
from itertools import islice
from typing import Any, NamedTuple

from penstock.errors import InvalidInput, NoValue
from penstock.pipelines.effort import ASKED, CHOSEN, NAMES, Effort

Expression = Any

#: Deepest nesting of one expression, and the most parts that it may have.
MAX_DEPTH, MAX_PARTS = 64, 10_000
#: Longest text or list that an operator may make, and the largest whole number, bits.
MAX_LENGTH, MAX_BITS = 1_000_000, 4096
#: Most characters and elements of a value that holds another one more than once, and of all that operators make for it.
MAX_MADE = 16_000_000

WORDS = ("$in", "$out", "$item", "$get", "$op", "$if", "$else", "$first", "$lit", "$object")
_KNOWN = frozenset(WORDS)
#: What makes the answer depend on values, or on failures: which branch is taken, what stands in, what was first.
CHOICES = ("$if", "$else", "$first")


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

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


def word_of(expression: Expression) -> str | None:
    """The ``$`` word of an object that means something; raises ``InvalidInput`` for one that nobody knows."""
    if not isinstance(expression, dict) or len(expression) != 1:
        return None
    (word,) = expression
    if word in _KNOWN:
        return word  # type: ignore[no-any-return]
    if not isinstance(word, str) or not word.startswith("$"):
        return None
    if word not in WORDS:
        raise InvalidInput(f"no expression begins with {word!r:.80}", fix=f"use one of {', '.join(WORDS)}")
    return word


class Checked(NamedTuple):
    """Of an expression: how many parts it has, and what each of its words is given, in the order of the text."""

    parts: int
    words: Mapping[str, Sequence[Any]]

    @property
    def chooses(self) -> bool:
        """Whether what it needs depends on values, or on failures."""
        return any(word in self.words for word in CHOICES)

    def given(self, word: str) -> Sequence[Any]:
        """What every word of this kind is given."""
        return self.words.get(word, ())


def check(expression: Expression) -> Checked:
    """What is in it; raises ``InvalidInput`` unless this is an expression, and one of a bounded size."""
    found: dict[str, list[Any]] = {}
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
        word = word_of(here) if isinstance(here, dict) else None
        if word is not None:
            _check_word(word, here[word])
            found.setdefault(word, []).append(here[word])
        if isinstance(here, dict | list):
            waiting += [(each, depth + 1) for each in reversed(parts_of(here))]
    return Checked(parts, found)


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


def flat_parts(expression: Expression) -> dict[int, tuple[str, ...]]:
    """Of each part without choices, and in none of those: the steps that it names, by the identity of the part."""
    found: dict[int, tuple[str, ...]] = {}

    def names_of(here: Any) -> tuple[str, ...] | None:
        """``None`` where there is a choice in it, whose other parts are then among those found."""
        word = word_of(here)
        if word == "$out":
            return (here[word],)
        parts = parts_of(here)
        within = [names_of(each) for each in parts]
        if None not in within and word not in CHOICES:
            return tuple(name for names in within for name in names or ())
        for each, names in zip(parts, within, strict=True):
            if names is not None and isinstance(each, dict | list):
                found[id(each)] = tuple(dict.fromkeys(names))
        return None

    names = names_of(expression)
    if names is not None:
        found[id(expression)] = tuple(dict.fromkeys(names))
    return found


class Dead(Exception):
    """An expression will never have a value: the step of this name has failed."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


_NOBODY: Mapping[str, str] = {}
_NOTHING_FLAT: Mapping[int, Sequence[str]] = {}


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
    return Reading(inputs=inputs, outputs=outputs, items=items).missing(expression, dead)


def literal(value: Any) -> Expression:
    """The expression of a JSON value, whatever keys it has and however deep it is."""
    return {"$lit": value} if isinstance(value, dict | list) else value


def evaluate(
    expression: Expression,
    *,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    items: Sequence[Any] = (),
    effort: Effort | None = None,
) -> Any:
    """The value. ``items`` are what the maps around are at, the innermost first.

    Raises ``NoValue`` for what has no value: an element that is not there, an operator whose operands do not fit;
    ``TooMuchWork`` for what is more than ``effort`` allows.
    """
    return Reading(inputs=inputs, outputs=outputs, items=items, effort=effort).value(expression)


class Reading:
    """What is asked about expressions while nothing ends: no condition is worked out twice, and all work is counted.

    So it is linear in their parts, however choices stand in the conditions of choices. Expressions must outlive it.
    """

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        items: Sequence[Any] | None = None,
        effort: Effort | None = None,
        flat: Mapping[int, Sequence[str]] = _NOTHING_FLAT,
    ) -> None:
        #: Of parts without choices, by their identity: the steps that they name.
        self._flat = flat
        self._inputs, self._outputs, self._items = inputs, outputs, items
        self._effort = Effort(None) if effort is None else effort
        self._made = self._looked = 0
        self._repeats = False
        self._used: set[tuple[str, Any]] = set()
        #: By the identity of an expression.
        self._holds: dict[int, bool] = {}
        self._by_item: dict[int, bool] = {}
        self._with_all_dead: dict[int, list[str] | Dead] = {}
        self._with_none_dead: dict[int, list[str] | Dead] = {}

    def missing(self, expression: Expression, dead: Mapping[str, str] = _NOBODY) -> list[str]:
        """See ``missing``."""
        return list(self._missing(expression, dead, {}))

    def value(self, expression: Expression) -> Any:
        """See ``evaluate``."""
        self._used.clear()
        self._made, self._repeats = 0, False
        result = self._of(expression)
        self._pay()
        # In memory it may be one value a million times; as JSON it is a million values.
        if self._repeats and self._effort.walk(result, most=MAX_MADE) > MAX_MADE:
            raise _too_much()
        return result

    def _missing(
        self, expression: Expression, dead: Mapping[str, str], known: dict[int, list[str] | Dead]
    ) -> list[str]:
        """``known`` is what has been asked about these dead ones."""
        before = known.get(id(expression))
        if isinstance(before, Dead):
            raise before
        if before is None:
            try:
                before = known[id(expression)] = self._walk(expression, dead, known)
            except Dead as end:
                known[id(expression)] = end
                raise
        return before

    def _walk(self, expression: Expression, dead: Mapping[str, str], known: dict[int, list[str] | Dead]) -> list[str]:
        found: dict[str, None] = {}
        waiting, looked = [expression], ASKED
        outputs = self._outputs
        while waiting:
            here = waiting.pop()
            looked += 1
            names = self._flat.get(id(here))
            if names is None and (word := word_of(here)) == "$out":
                names = (here[word],)
            if names is not None:
                looked += len(names) // NAMES
                for name in names:
                    if name not in outputs:
                        if name in dead:
                            self._effort.spend(looked)
                            raise Dead(dead[name])
                        found[name] = None
            elif word == "$else":
                looked += CHOSEN
                one, other = here[word]
                try:
                    names = self._missing(one, dead, known)
                    looked += len(names) // NAMES
                    found |= dict.fromkeys(names)
                except Dead:
                    waiting.append(other)
            elif word == "$first":
                names = self._first(here[word], dead, known)
                looked += len(names) // NAMES
                found |= dict.fromkeys(names)
            elif word == "$if":
                looked += CHOSEN
                condition, one, other = here[word]
                if self._items is None and self._names_item(condition):
                    waiting += (other, one, condition)
                elif names := self._missing(condition, dead, known):
                    looked += len(names) // NAMES
                    found |= dict.fromkeys(names)
                else:
                    waiting.append(one if self._truth(condition) else other)
            else:
                waiting += reversed(parts_of(here))
        self._effort.spend(looked)
        return list(found)

    def _first(self, given: Any, dead: Mapping[str, str], known: dict[int, list[str] | Dead]) -> list[str]:
        """What is missing of a choice of the first ones: nothing when there are enough, else what any waits for."""
        count, values = given
        there, found = 0, []
        end = Dead("")
        for each in values:
            try:
                names = self._missing(each, dead, known)
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

    def _names_item(self, condition: Expression) -> bool:
        known = self._by_item.get(id(condition))
        if known is None:
            self._effort.spend(1)
            known = word_of(condition) == "$item" or any(map(self._names_item, parts_of(condition)))
            self._by_item[id(condition)] = known
        return known

    def _truth(self, condition: Expression) -> bool:
        holds = self._holds.get(id(condition))
        if holds is None:
            holds = self._holds[id(condition)] = truth(self._of(condition))
            self._pay()
        return holds

    def _pay(self) -> None:
        """One expression has few enough parts to be counted when they have been looked at."""
        self._effort.spend(self._looked)
        self._looked = 0

    def _of(self, here: Expression) -> Any:
        self._looked += 1
        if not isinstance(here, dict):
            return [self._of(each) for each in here] if isinstance(here, list) else here
        word = word_of(here)
        if word is None:
            return {key: self._of(each) for key, each in here.items()}
        given = here[word]
        if word == "$op":
            return self._operator(given[0], [self._of(each) for each in given[1:]])
        if word in ("$in", "$out", "$item"):
            self._repeats |= (word, given) in self._used
            self._used.add((word, given))
            if word == "$item":
                return (self._items or ())[given]
            return (self._outputs if word == "$out" else self._inputs)[given]
        if word == "$get":
            of, key = given
            return _element(self._of(of), self._of(key))
        if word == "$lit":
            return given
        if word == "$if":
            condition, one, other = given
            return self._of(one if self._truth(condition) else other)
        if word == "$else":
            one, other = given
            return self._of(one if self._has_value(one) else other)
        if word == "$first":
            count, values = given
            there = (each for each in values if not self._is_absent(each))
            return [self._of(each) for each, _ in zip(there, range(count), strict=False)]
        key, value = given
        return {key: self._of(value)}

    def _operator(self, name: str, values: Sequence[Any]) -> Any:
        if name in COMPARISONS:
            self._effort.compare(*values)
        result = _apply(name, values)
        if result is True or result is False:
            return result
        self._effort.make(result)
        if isinstance(result, str | list):
            self._made += len(result)
            self._repeats |= isinstance(result, list)
            if self._made > MAX_MADE:
                raise _too_much()
        return result

    def _has_value(self, expression: Expression) -> bool:
        """Whether it has a value with what has come out: not all that it names, of a choice one branch is enough."""
        try:
            return not self._missing(expression, _EVERYBODY, self._with_all_dead)
        except Dead:
            return False

    def _is_absent(self, expression: Expression) -> bool:
        return bool(self._missing(expression, _NOBODY, self._with_none_dead))


def _too_much() -> NoValue:
    return NoValue(f"it makes more than {MAX_MADE:,} characters and elements of what it is given")


def _element(of: Any, key: Any) -> Any:
    if isinstance(of, dict) and isinstance(key, str):
        if key in of:
            return of[key]
        keys = ", ".join(repr(each)[:40] for each in islice(of, 8))
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
