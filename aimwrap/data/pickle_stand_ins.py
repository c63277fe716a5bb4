"""What stands for numpy's and the standard library's names in pickles of plain values; see ``pickles``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

BYTE_ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}  # |: of a single byte


class RefusedError(Exception):
    """The pickle asks for something that plain values do not need."""


class Global(str):
    """A name that the pickle asks for, such as ``numpy.dtype``; never imported."""


class Array(list[Any]):
    """Stands for a numpy array, whose values come after it."""


class NumberType:
    """Stands for a numpy dtype, whose byte order comes after it."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[biuf][1248]", code) is None:
            raise RefusedError(f"holds an array of {code!r:.20}, not of numbers")
        self.code = code
        self.order: Literal["<", ">", "="] = "="


def plain_key(value: Any) -> Any:
    """A value that may be a dictionary's key or in a set, which needs its hash."""
    # a tuple's hash walks through all that is shared in it, which a file of 100 bytes can make endless
    if type(value) not in (str, bytes, int, float, bool, type(None)):
        raise RefusedError(f"has a {type(value).__name__} for a key")
    return value


def global_name(module: Any, attribute: Any) -> Global:
    """A name that has a stand-in; any other is refused."""
    name = f"{module}.{attribute}" if type(module) is str and type(attribute) is str else ""
    if name not in STAND_INS and name not in NAMES:
        raise RefusedError(f"asks for {name[:80] or 'something without a name'}")
    return Global(name)


def stand_in(called: Any, arguments: Any) -> Any:
    """What the function of this name would return for numbers and containers."""
    if type(called) is not Global or called not in STAND_INS or type(arguments) is not tuple:
        raise RefusedError(f"calls {called[:80] if type(called) is Global else 'something that is no function'}")
    return STAND_INS[called](*arguments)


def set_state(target: Any, state: Any) -> None:
    """Give an array its values, or a number type its byte order."""
    if type(state) is tuple and isinstance(target, NumberType):
        target.order = BYTE_ORDERS[state[1]]
    elif type(state) is tuple and isinstance(target, Array):
        _, shape, kind, column_first, values = state
        target[:] = _from_buffer(values, kind, shape, "F" if column_first else "C")
    else:
        raise RefusedError(f"gives a {type(target).__name__} a state")


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> Array:
    sides = shape if type(shape) is tuple else (shape,)
    if not sides or (any(type(side) is not int or side < 1 for side in sides) and sides != (0,)):
        raise RefusedError("holds an array of no possible shape")
    numbers = _numbers(values, kind)
    if math.prod(sides) != len(numbers) or len(sides) > 8:
        raise ValueError(f"an array must have {math.prod(sides)} values and has {len(numbers)}")
    return Array(numbers.reshape(sides, order="F" if order == "F" else "C").tolist())


def _numbers(values: Any, kind: Any) -> np.ndarray[Any, Any]:
    if type(kind) is not NumberType:
        raise RefusedError("holds an array of an unknown kind")
    raw = values.encode("latin-1") if type(values) is str else values  # Python 2 wrote strings
    if type(raw) not in (bytes, bytearray):
        raise RefusedError("holds an array of objects")
    return np.frombuffer(raw, np.dtype(kind.code).newbyteorder(kind.order))


def _scalar(kind: Any, value: Any) -> int | float | bool:
    (number,) = _numbers(value, kind).tolist()
    result: int | float | bool = number
    return result


def _empty_array(kind: Any, *_: Any) -> Array:
    if kind != "numpy.ndarray" or type(kind) is not Global:
        raise RefusedError("holds an array of an unknown class")
    return Array()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedError("holds text of an unknown encoding")
    return text.encode("latin-1")


def _collection(kind: type) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise RefusedError(f"makes a {kind.__name__} of a {type(items).__name__}")
        return kind(map(plain_key, items))

    return build


def _nothing(kind: type) -> Callable[[], Any]:
    return lambda: kind()


NAMES = {"numpy.ndarray"}
STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: NumberType(code),
    "_codecs.encode": _encoded,  # how protocols 0 to 2 write bytes
    "collections.OrderedDict": _nothing(dict),
    **{f"{module}.bytes": _nothing(bytes) for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _collection(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _collection(frozenset) for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
