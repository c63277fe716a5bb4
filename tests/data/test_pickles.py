"""Pickles of plain values are read at every protocol, and nothing that a pickle asks for is ever run."""

import builtins
import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from aimwrap.data.sets.hard_imagenet import LARGEST_PICKLE, read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = [
    [0, -1, 255, 65536, 2**31, -(2**31) - 1, 2**70, -(2**70)],
    {"a": 1, 2: "b", 2.5: None, True: [False], b"c": (1,)},
    ["", "naïve \\ 'quoted'\n", "🐕", b"", b"\x00\xff", 1.5, float("inf")],
    ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    {"sets": [{1, 2}, frozenset({"x"}), set()]},
    collections.OrderedDict([(537, "n03218198"), (0, "n01440764")]),
    [],
]


def store(folder: Path, data: bytes) -> Path:
    path = folder / "value.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_values_come_back(value: object, protocol: int, tmp_path: Path) -> None:
    assert read_pickle(store(tmp_path, pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["<i8", ">i4", "u1", "bool", "<f4", ">f8", "<f2"])
def test_numpy_comes_back_as_lists_and_numbers(kind: str, protocol: int, tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).astype(kind)
    value = {
        "rows": array,
        "columns": np.asfortranarray(array),
        "scalar": array[1, 1],
        "row": array[:1],
        "none": array[0, :0],
        5: [array[0, 2]],
    }
    read = read_pickle(store(tmp_path, pickle.dumps(value, protocol)))
    assert read["rows"] == read["columns"] == array.tolist()
    assert (read["scalar"], read["none"], read[5]) == (array[1, 1].item(), [], [array[0, 2].item()])
    assert read["row"] == array[:1].tolist()
    assert type(read["scalar"]) is type(array[1, 1].item())


def test_shared_values_stay_shared(tmp_path: Path) -> None:
    shared = [1]
    first, second = read_pickle(store(tmp_path, pickle.dumps([shared, shared])))
    assert first is second


class Calls:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


def payloads(witness: Path) -> dict[str, object]:
    code = f"open({str(witness)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {witness}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "import": Calls(__import__, "this"),
        "open": Calls(open, str(witness), "w"),
        "frombuffer": Calls(np.frombuffer, b"12345678"),
        "memmap": Calls(np.memmap, str(witness), "u1", "w+", 0, (8,)),
        "fromfile": Calls(np.fromfile, "/etc/passwd"),
        "object array": np.array([Calls(os.system, f"touch {witness}")], dtype=object),
        "text array": np.array(["a", "b"]),
        "array without sides": np.array(5),
        "array without values": np.zeros((3, 0)),
        "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "record array": np.zeros(2, dtype=[("a", "i4")]),
        "class": collections.Counter,
        "instance": collections.Counter("aab"),
        "path": witness,
        "function": builtins.print,
        "nested": {"harmless": [1, 2, {"deep": (Calls(os.system, f"touch {witness}"),)}]},
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(payloads(Path("x"))))
def test_hostile_pickles_are_refused_and_run_nothing(name: str, protocol: int, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = store(tmp_path, pickle.dumps(payloads(witness)[name], protocol))
    with pytest.raises(ValueError, match=r"value\.pkl is not a pickle of .*damaged or hostile; nothing in it was run"):
        read_pickle(path)
    assert not witness.exists()


HANDMADE = {
    "old call": b"cos\nsystem\n(S'true'\ntR.",
    "instance": b"(S'true'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'true'\no.",
    "new object": b"\x80\x02cos\nsystem\n)\x81.",
    "persistent": b"Pfile\n.",
    "extension": b"\x80\x02\x82\x01.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
    "dunder through a permitted name": b"cnumpy\ndtype.__reduce__\n.",
    "name that is no text": b"\x80\x04K\x01K\x02\x93.",
    "state of a list": b"]}b.",
    "state of a dictionary": b"}}b.",
    "call of a number": b"K\x01)R.",
    "call of text that is a permitted name": b"\x80\x04\x8c\x0bnumpy.dtype\x8c\x02i8\x85R.",
    "a bare name": b"cnumpy\nndarray\n.",
    "append to a dictionary": b"}K\x01a.",
    "item of a list": b"]K\x01K\x02s.",
    "tuple as key": b"}K\x01\x85K\x02s.",
    "array of another class": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tS'b'\ntR.",
    "array of any length": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I0\nI999999999999\ntS'C'\ntR."
    ),
}


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade_attacks_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="damaged or hostile"):
        read_pickle(store(tmp_path, HANDMADE[name]))


NO_PICKLES = {
    "empty": b"",
    "text": b"hello",
    "cut off": pickle.dumps([1, 2, 3])[:-3],
    "cut off in a string": pickle.dumps("a long name", 4)[:-6],
    "no mark": b"t.",
    "no stack": b"a.",
    "no stack for a tuple": b"\x80\x02\x87.",
    "unknown memo": b"h\x05.",
    "odd dictionary": b"(K\x01d.",
    "enormous string": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "enormous bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
    "enormous number": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "negative length": b"\x8b" + struct.pack("<i", -5) + b"a.",
    "wrong text": b"X\x02\x00\x00\x00\xff\xfe.",
    "too few values of an array": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x08\0\0\0\0\0\0\0\0cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I2\ntS'C'\ntR."
    ),
    "too many arguments": b"cnumpy.core.multiarray\nscalar\n(K\x01K\x02K\x03tR.",
}


@pytest.mark.parametrize("name", NO_PICKLES)
def test_damaged_pickles_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"value\.pkl is not a pickle of numbers"):
        read_pickle(store(tmp_path, NO_PICKLES[name]))


def test_far_memo_takes_no_memory(tmp_path: Path) -> None:
    """The C unpickler makes room for every number below, so a number that Python never writes is refused."""
    with pytest.raises(ValueError, match="numbers more values than it can have"):
        read_pickle(store(tmp_path, b"K\x07r" + struct.pack("<I", 2**32 - 1) + b"."))


def test_a_value_too_many_reads_as_python_reads_it(tmp_path: Path) -> None:
    assert read_pickle(store(tmp_path, b"K\x01K\x02.")) == 2


def test_endless_keys_are_refused(tmp_path: Path) -> None:
    """Hashing a tuple of tuples of ... of one shared tuple takes for ever."""
    endless = b")" + b"2\x86" * 200
    for attack in (
        b"}" + endless + b"K\x01s.",
        b"}(" + endless + b"K\x01u.",
        b"(" + endless + b"K\x01d.",
        b"\x80\x04\x8f(" + endless + b"\x90.",
        b"\x80\x04(" + endless + b"\x91.",
        b"cbuiltins\nset\n(]" + endless + b"atR.",
    ):
        with pytest.raises(ValueError, match="has a tuple for a key"):
            read_pickle(store(tmp_path, attack))


COPIES = {
    "bytes": (b"c_codecs\nencode\nq\x000X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x010]", b"h\x00h\x01\x85Ra"),
    "sets": (b"cbuiltins\nset\nq\x000](" + b"K\x01" * 30000 + b"eq\x010]", b"h\x00h\x01\x85Ra"),
    "arrays": (
        b"cnumpy.core.numeric\n_frombuffer\nq\x000cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x020B\x00\x00\x01\x00"
        + b"a" * 65536
        + b"q\x010]",
        b"h\x00(h\x01h\x02J\x00\x00\x01\x00X\x01\x00\x00\x00CtRa",
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_without_end_are_refused(kind: str, tmp_path: Path) -> None:
    """A name of a few bytes that copies what is written once would make gigabytes of 256 KiB."""
    start, copy = COPIES[kind]
    assert len(read_pickle(store(tmp_path, start + copy * 2 + b"."))) == 2
    with pytest.raises(ValueError, match="again and again, which fills the memory"):
        read_pickle(store(tmp_path, start + copy * 2000 + b"."))


def test_large_files_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"at most {LARGEST_PICKLE} bytes"):
        read_pickle(store(tmp_path, pickle.dumps(b"a" * LARGEST_PICKLE)))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pkl is not there"):
        read_pickle(tmp_path / "nothing.pkl")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_damage_raises_anything_else(protocol: int, tmp_path: Path) -> None:
    """Single bytes are replaced."""
    value = {"a": [1, 2.5, "x", (3, b"y")], 7: np.arange(3), "s": np.int64(4)}
    whole = pickle.dumps(value, protocol)
    rng = np.random.default_rng(protocol)
    for _ in range(100):
        position, byte = int(rng.integers(len(whole))), int(rng.integers(256))
        damaged = whole[:position] + bytes([byte]) + whole[position + 1 :]
        try:
            read_pickle(store(tmp_path, damaged))
        except ValueError as error:
            assert "value.pkl" in str(error)
