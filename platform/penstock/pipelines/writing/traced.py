"""Values while a pipeline is traced: they are not there yet, so what is done to them is written down.

``judge(draft) > 0.5`` is no truth value but the expression of one. Whatever would need the value now (``if``, ``for``,
``len``, an f-string) raises ``TypeError`` and names what does it later.
"""

from __future__ import annotations

from typing import Any, NoReturn

from penstock.payload import constant
from penstock.pipelines.expression import Expression, literal


class Traced:
    """An expression with Python's operators. Attributes and indices are elements: ``answer.score``, ``docs[0]``."""

    __slots__ = ("_expression",)
    #: numpy must not take it for a value: ``np.float64(0.5) < traced`` asks ``traced`` then.
    __array_ufunc__ = None

    def __init__(self, expression: Expression) -> None:
        object.__setattr__(self, "_expression", expression)

    def __repr__(self) -> str:
        return f"<not known before the run: {self._expression!r:.100}>"

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(f"cannot set {name!r} of {_WHAT}: make what you need in a step")

    def __getattr__(self, name: str) -> Traced:
        if name.startswith("_"):  # what Python and libraries look for
            raise AttributeError(f"{_WHAT} has no {name!r}")
        return Traced({"$get": [self._expression, name]})

    def __getitem__(self, key: Any) -> Traced:
        if isinstance(key, slice):
            raise TypeError(f"{_WHAT} has no slices yet: take them in a step")
        return Traced({"$get": [self._expression, expression_of(key)]})

    def __eq__(self, other: object) -> Any:
        return _made("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return _made("ne", self, other)

    def __hash__(self) -> NoReturn:  # equal ones would have to have one hash
        raise TypeError(f"a set, or a key of a dict, needs {_WHAT}: {_STEP}")


_WHAT = "a value that is not known before the run"
_STEP = "compute it in a function with @penstock.step"


def refusal(error: TypeError) -> TypeError | None:
    """What to say instead where a library, ``json.dumps`` for one, was given a traced value and only knows that it has
    no use for a ``Traced``: there is no method by which that could say more."""
    words = str(error)
    if Traced.__name__ not in words or _WHAT in words:
        return None
    return TypeError(f"{words}: it is {_WHAT}; {_STEP}")


def expression_of(value: Any) -> Expression:
    """What stands for a value, and for the traced ones in it; raises ``NotSerializable`` for what JSON has not."""
    if isinstance(value, Traced):
        return value._expression
    if holds_traced(value):
        if isinstance(value, dict):
            if len(value) == 1 and str(next(iter(value))).startswith("$"):
                [(key, each)] = value.items()
                return {"$object": [key, expression_of(each)]}
            return {key: expression_of(each) for key, each in value.items()}
        return [expression_of(each) for each in value]
    return literal(constant(value))


def holds_traced(value: Any) -> bool:
    """Whether there is a traced value in it."""
    if isinstance(value, dict):
        return any(map(holds_traced, value.values()))
    return isinstance(value, Traced) or (isinstance(value, list | tuple) and any(map(holds_traced, value)))


def _made(name: str, *operands: Any) -> Traced:
    return Traced({"$op": [name, *map(expression_of, operands)]})


def _operator(name: str) -> Any:
    return lambda self, other: _made(name, self, other)


def _reflected(name: str) -> Any:
    return lambda self, other: _made(name, other, self)


def _single(name: str) -> Any:
    return lambda self: _made(name, self)


def _refuse(what: str, instead: str) -> Any:
    def refuse(self: Traced, *_: Any) -> NoReturn:
        raise TypeError(f"{what} needs {_WHAT}: {instead}")

    return refuse


for _name in ("lt", "le", "gt", "ge"):
    setattr(Traced, f"__{_name}__", _operator(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(Traced, f"__{_name}__", _operator(_name))
    setattr(Traced, f"__r{_name}__", _reflected(_name))
for _python, _name in (("neg", "neg"), ("pos", "pos"), ("abs", "abs"), ("invert", "not")):
    setattr(Traced, f"__{_python}__", _single(_name))
for _python, _what, _instead in (
    (
        "bool",
        "`if`, `and`, `or`, `not`, `in` a list or `a < b < c`",
        "write penstock.when(condition, value, other), and &, | and ~",
    ),
    ("iter", "`for`, `*` or a list of it", "write step.map(values), one call for each of them"),
    ("len", "`len`", _STEP),
    ("contains", "`in`", _STEP),
    ("int", "`int`", _STEP),
    ("float", "`float`", _STEP),
    ("complex", "`complex`", _STEP),
    ("round", "`round`", _STEP),
    ("reversed", "`reversed`", _STEP),
    ("setitem", "setting an element", _STEP),
    ("delitem", "`del`", _STEP),
    ("index", "an index, `range` or a slice", _STEP),
    ("str", "a text of it", _STEP),
    ("format", "an f-string", _STEP),
    ("reduce_ex", "a copy or a pickle of it", _STEP),
    ("call", "a call of it", "call a model, or a function with @penstock.step"),
):
    setattr(Traced, f"__{_python}__", _refuse(_what, _instead))
