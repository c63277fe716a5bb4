"""Reading pickles of plain values without unpickling.

``pickle.load`` runs whatever code a file asks for. Here the file's instructions are read with ``pickletools`` and only
those that build numbers, strings and containers are followed; nothing that a file names is ever imported or called.
The few names of numpy and of the standard library that numbers and containers are pickled with have stand-ins here.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

LARGEST_PICKLE = 1 << 18  # bytes; a thousand class names take a tenth

PUSHED = {  # their argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
CONTAINERS: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
FROM_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": lambda items: _dictionary({}, items),
    "FROZENSET": lambda items: frozenset(map(_key, items)),
}
BYTE_ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}  # |: of a single byte
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(path: Path) -> Any:
    """Read a pickle of numbers, strings and containers of them; whatever else it asks for is refused.

    Args:
        path: of the file, of any protocol.

    Returns:
        Its value. Arrays of numpy come as nested lists, its numbers as Python's.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it asks for anything else, is no pickle, or is larger than 256 KiB. Nothing was run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; pass the folder of the release, in which it lies, as root")
    if path.stat().st_size > LARGEST_PICKLE:
        raise ValueError(
            f"{path} must be a pickle of a few numbers and names, at most {LARGEST_PICKLE} bytes, and has "
            f"{path.stat().st_size}; it was not read. Get the release again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own on strange escapes in text
            return _follow(path.read_bytes())
    except _RefusedError as error:
        raise ValueError(
            f"{path} is a pickle that {error}; numbers, strings and containers of them need no such thing, so it is "
            "damaged or hostile. It was read without running any of it. Get the release again from its authors"
        ) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{path} is no whole pickle: {error}. Get the release again") from error


class _RefusedError(Exception):
    """The pickle asks for something that plain values do not need."""


class _Global(str):
    """A name that the pickle asks for, such as ``numpy.dtype``; never imported."""


class _Array(list[Any]):
    """Stands for a numpy array, whose values come after it."""


class _NumberType:
    """Stands for a numpy dtype, whose byte order comes after it."""

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[biuf][1248]", code) is None:
            raise _RefusedError(f"holds an array of {code!r:.20}, not of numbers")
        self.code = code
        self.order: Literal["<", ">", "="] = "="


def _follow(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            pass
        elif name == "STOP":
            (value,) = stack
            return _finished(value)
        elif name in PUSHED:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in CONTAINERS:
            stack.append(CONTAINERS[name]())
        elif name in TUPLES:
            count = TUPLES[name]
            if len(stack) < count:
                raise IndexError("its stack ran out")
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in FROM_MARK:
            items = since_mark()
            stack.append(FROM_MARK[name](items))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            since_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "APPEND":
            value = stack.pop()
            _plain(stack[-1], list).append(value)
        elif name == "APPENDS":
            items = since_mark()
            _plain(stack[-1], list).extend(items)
        elif name == "ADDITEMS":
            items = since_mark()
            _plain(stack[-1], set).update(map(_key, items))
        elif name == "SETITEM":
            items = stack[-2:]
            del stack[-2:]
            _dictionary(_plain(stack[-1], dict), items)
        elif name == "SETITEMS":
            items = since_mark()
            _dictionary(_plain(stack[-1], dict), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_named(module, attribute))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            stack.append(_stand_in(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _set_state(stack[-1], state)
        else:
            raise _RefusedError(f"builds an object of its own ({name})")
    raise ValueError("it ends before its end mark")


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _RefusedError(f"changes a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _key(value: Any) -> Any:
    # a tuple's hash walks through all that is shared in it, which a file of 100 bytes can make endless
    if type(value) not in (str, bytes, int, float, bool, type(None)):
        raise _RefusedError(f"has a {type(value).__name__} for a key")
    return value


def _dictionary(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a dictionary has a key without a value")
    target.update(zip(map(_key, items[::2]), items[1::2], strict=True))
    return target


def _finished(value: Any) -> Any:
    if isinstance(value, (_Global, _NumberType)):
        raise _RefusedError("holds no value")
    return value


def _named(module: Any, attribute: Any) -> _Global:
    name = f"{module}.{attribute}" if type(module) is str and type(attribute) is str else ""
    if name not in STAND_INS and name not in NAMES:
        raise _RefusedError(f"asks for {name[:80] or 'something without a name'}")
    return _Global(name)


def _stand_in(called: Any, arguments: Any) -> Any:
    if type(called) is not _Global or called not in STAND_INS or type(arguments) is not tuple:
        raise _RefusedError(f"calls {called[:80] if type(called) is _Global else 'something that is no function'}")
    return STAND_INS[called](*arguments)


def _set_state(target: Any, state: Any) -> None:
    if type(state) is tuple and isinstance(target, _NumberType):
        target.order = BYTE_ORDERS[state[1]]
    elif type(state) is tuple and isinstance(target, _Array):
        _, shape, kind, column_first, values = state
        target[:] = _from_buffer(values, kind, shape, "F" if column_first else "C")
    else:
        raise _RefusedError(f"gives a {type(target).__name__} a state")


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any) -> _Array:
    sides = shape if type(shape) is tuple else (shape,)
    if not sides or (any(type(side) is not int or side < 1 for side in sides) and sides != (0,)):
        raise _RefusedError("holds an array of no possible shape")
    numbers = _numbers(values, kind)
    if math.prod(sides) != len(numbers) or len(sides) > 8:
        raise ValueError(f"an array must have {math.prod(sides)} values and has {len(numbers)}")
    return _Array(numbers.reshape(sides, order="F" if order == "F" else "C").tolist())


def _numbers(values: Any, kind: Any) -> np.ndarray[Any, Any]:
    if type(kind) is not _NumberType:
        raise _RefusedError("holds an array of an unknown kind")
    raw = values.encode("latin-1") if type(values) is str else values  # Python 2 wrote strings
    if type(raw) not in (bytes, bytearray):
        raise _RefusedError("holds an array of objects")
    return np.frombuffer(raw, np.dtype(kind.code).newbyteorder(kind.order))


def _scalar(kind: Any, value: Any) -> int | float | bool:
    (number,) = _numbers(value, kind).tolist()
    result: int | float | bool = number
    return result


def _empty_array(kind: Any, *_: Any) -> _Array:
    if kind != "numpy.ndarray" or type(kind) is not _Global:
        raise _RefusedError("holds an array of an unknown class")
    return _Array()


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise _RefusedError("holds text of an unknown encoding")
    return text.encode("latin-1")


def _collection(kind: type) -> Callable[..., Any]:
    def build(items: Any = ()) -> Any:
        if type(items) not in (list, tuple):
            raise _RefusedError(f"makes a {kind.__name__} of a {type(items).__name__}")
        return kind(map(_key, items))

    return build


def _nothing(kind: type) -> Callable[[], Any]:
    return lambda: kind()


NAMES = {"numpy.ndarray"}
STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: _NumberType(code),
    "_codecs.encode": _encoded,  # how protocols 0 to 2 write bytes
    "collections.OrderedDict": _nothing(dict),
    **{f"{module}.bytes": _nothing(bytes) for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _collection(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _collection(frozenset) for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
