"""Reading pickles of plain values without unpickling.

``pickle.load`` runs whatever code a file asks for. Here the file's instructions are read with ``pickletools`` and only
those that build numbers, strings and containers are followed; nothing that a file names is ever imported or called.
The few names of numpy and of the standard library that numbers and containers are pickled with have stand-ins here.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .pickle_stand_ins import Global, NumberType, RefusedError, global_name, plain_key, set_state, stand_in

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
    "FROZENSET": lambda items: frozenset(map(plain_key, items)),
}
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
    except RefusedError as error:
        raise ValueError(
            f"{path} is a pickle that {error}; numbers, strings and containers of them need no such thing, so it is "
            "damaged or hostile. It was read without running any of it. Get the release again from its authors"
        ) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{path} is no whole pickle: {error}. Get the release again") from error


def _follow(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    spent = 0  # on copies that stand-ins make

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
            _plain(stack[-1], set).update(map(plain_key, items))
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
            stack.append(global_name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(global_name(module, attribute))
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            spent += _length(arguments)
            stack.append(stand_in(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            spent += _length(state)
            set_state(stack[-1], state)
        else:
            raise RefusedError(f"builds an object of its own ({name})")
        if spent > 4 * len(data):
            raise RefusedError("takes the same values again and again, which fills the memory")
    raise ValueError("it ends before its end mark")


def _length(arguments: Any) -> int:
    values = arguments if type(arguments) is tuple else ()
    return sum(len(value) for value in values if isinstance(value, (str, bytes, bytearray, list, tuple)))


def _plain(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"changes a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _dictionary(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ValueError("a dictionary has a key without a value")
    target.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))
    return target


def _finished(value: Any) -> Any:
    if isinstance(value, (Global, NumberType)):
        raise RefusedError("holds no value")
    return value
