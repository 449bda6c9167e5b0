"""Opens the files that `torch.save` writes, without PyTorch and without trust.

A pickle is a program: it names functions and has them called. Here an interpreter of
its own reads it, which knows what a state dict is made of (mappings, names, tensors in
storages) and makes an inert placeholder of everything else. Nothing is imported,
called, or built from what a file says; a tensor is checked against the bytes that are
there before it is made.
"""

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np


_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

# A mapping, tuple or remembered object takes some bytes of the file: of a tensor more
# than twenty each.
_BYTES_AN_OBJECT = 8
_MOST_AXES = 16
# All tensors together, in sizes of the file: a model, its average and its optimiser may
# share storages.
_MOST_SIZES = 8


class Inert:
    """Takes the place of whatever is not part of a state dict."""


@dataclass(frozen=True)
class Unknown:
    """Takes the place of a tensor of a type that is not one of weights."""

    kind: str
    shape: tuple[int, ...] = ()


_INERT = Inert()
_MARK = object()


@dataclass(frozen=True)
class _Global:
    """The name of a class or function."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    """Some bytes of the file. Only a persistent id makes one."""

    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the file: a view of the numbers of its storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    numbers: Mapping[str, np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        numbers = self.numbers[self.storage.key][self.offset :]
        strides = [step * self.dtype.itemsize for step in self.stride]
        array = np.lib.stride_tricks.as_strided(
            numbers, self.shape, strides, writeable=False
        )
        return array if dtype is None else array.astype(dtype)


class _Machine:
    """Runs a pickle on a stack, as far as a state dict needs it."""

    def __init__(self, size: int):
        self.size = size
        self.storages: dict[str, _Storage] = {}
        self.numbers: dict[str, np.ndarray] = {}  # of the storages
        self.objects = self.bytes = 0

    def run(self, file: BytesIO) -> Any:
        """Interpret one pickle, up to its end."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(name)
            if step is None:
                raise ValueError(f"it has the instruction {name}, of no state dict")
            step(self, argument)
        raise ValueError("it has no end")

    def count(self) -> None:
        self.objects += 1
        if self.objects > 10_000 + self.size // _BYTES_AN_OBJECT:
            raise ValueError("it has more objects than a file of its size can need")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def from_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                values = self.stack[place + 1 :]
                del self.stack[place:]
                return values
        raise ValueError("it has no mark where one belongs")

    def make_tuple(self, values: list[Any]) -> None:
        self.count()
        nested = [getattr(v, "depth", 0) for v in values if isinstance(v, tuple)]
        depth = 1 + max(nested, default=-1)
        self.push(_TUPLES[depth](values) if depth < len(_TUPLES) else _INERT)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            return
        for key, value in zip(pairs[::2], pairs[1::2]):
            if isinstance(key, str | int):
                target[key] = value

    def append(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def put(self, index: Any) -> None:
        self.count()
        self.memo[int(index)] = self.stack[-1]

    def get(self, index: Any) -> None:
        if int(index) not in self.memo:
            raise ValueError("it asks for an object that it has not made")
        self.push(self.memo[int(index)])

    def stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        is_named = isinstance(name, str) and isinstance(module, str)
        self.push(_Global(module, name) if is_named else _INERT)

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        arguments = arguments if isinstance(arguments, tuple) else ()
        self.push(self.call(function, arguments))

    def call(self, function: Any, arguments: tuple) -> Any:
        """The result of one of the few known functions."""
        if not isinstance(function, _Global):
            return _INERT
        made = _CALLS.get((function.module, function.name))
        if made is None and function.name.startswith("_rebuild_"):
            return Unknown(function.name)
        return _INERT if made is None else made(self, *arguments)

    def mapping(self, *pairs: Any) -> dict:
        self.count()
        return {}

    def first(self, value: Any = _INERT, *_: Any) -> Any:
        return value

    def rebuild_from_type(
        self, function: Any = None, kind: Any = None, arguments: Any = (), *_: Any
    ) -> Any:
        return self.call(function, arguments if isinstance(arguments, tuple) else ())

    def rebuild(
        self,
        storage: Any = None,
        offset: Any = None,
        shape: Any = None,
        stride: Any = None,
        *_: Any,
    ) -> Any:
        if not isinstance(storage, _Storage):
            if isinstance(storage, Unknown | Inert):
                return storage
            raise ValueError("a tensor has no storage")
        numbers = (offset, *shape, *stride) if _are_tuples(shape, stride) else (None,)
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError("a tensor has a place, shape or stride of no kind")
        if len(shape) != len(stride) or len(shape) > _MOST_AXES:
            raise ValueError("a tensor has a shape and a stride that do not fit")
        size = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride))
        if offset > storage.count or (size and last >= storage.count):
            raise ValueError("a tensor lies outside of its storage")
        self.bytes += size * storage.dtype.itemsize
        if self.bytes > _MOST_SIZES * self.size:
            raise ValueError("its tensors are many times larger than the file")
        return Tensor(storage, offset, tuple(shape), tuple(stride), self.numbers)

    def persistent(self, _: Any) -> None:
        pid = self.stack.pop()
        self.push(self.storage(pid) if isinstance(pid, tuple) else _INERT)

    def storage(self, pid: tuple) -> Any:
        if len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _Global):
            return _INERT
        dtype = _DTYPES.get(pid[1].name) if pid[1].module == "torch" else None
        key, count = pid[2], pid[4]
        if dtype is None:
            return Unknown(pid[1].name)
        if not isinstance(key, str) or type(count) is not int:
            raise ValueError("a storage has no name or no size")
        if len(pid) > 5 and pid[5] is not None:
            raise ValueError("a storage is a view of another, as PyTorch 0.3 wrote")
        if not 0 <= count * dtype.itemsize <= self.size:
            raise ValueError("a storage is larger than the file")
        known = self.storages.setdefault(key, _Storage(dtype, key, count))
        if (known.dtype, known.count) != (dtype, count):
            raise ValueError(f"the storage {key!r} has two types or sizes")
        return known


# Tuples by the depth of their nesting, of which a state dict needs four. (Classes, for
# an attribute of each would take more memory than the tuple.)
_TUPLES = [
    type(f"_Tuple{depth}", (tuple,), {"__slots__": (), "depth": depth})
    for depth in range(10)
]


def _are_tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _new_mapping(machine: _Machine, _: Any) -> None:
    machine.count()
    machine.push({})


def _new_list(machine: _Machine, _: Any) -> None:
    machine.count()
    machine.push([])


def _inert(machine: _Machine, _: Any) -> None:
    machine.push(_INERT)


def _tuple_of(number: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < number:
            raise ValueError("it takes more objects than it has made")
        values = machine.stack[len(machine.stack) - number :]
        del machine.stack[len(machine.stack) - number :]
        machine.make_tuple(values)

    return make


def _drop(number: int) -> Callable[[_Machine, Any], None]:
    """Take the state or the arguments of an object away, and leave it as it is."""

    def drop(machine: _Machine, _: Any) -> None:
        if len(machine.stack) < number:
            raise ValueError("it takes more objects than it has made")
        del machine.stack[len(machine.stack) - number :]

    return drop


def _new_object(number: int) -> Callable[[_Machine, Any], None]:
    drop = _drop(number)

    def make(machine: _Machine, _: Any) -> None:
        drop(machine, _)
        machine.push(_INERT)

    return make


def _marked_object(machine: _Machine, _: Any) -> None:
    machine.from_mark()
    machine.push(_INERT)


def _to_mark(machine: _Machine, _: Any) -> None:
    machine.from_mark()


def _dictionary(machine: _Machine, _: Any) -> None:
    pairs = machine.from_mark()
    _new_mapping(machine, None)
    machine.set_items(pairs)


def _list(machine: _Machine, _: Any) -> None:
    values = machine.from_mark()
    _new_list(machine, None)
    machine.append(values)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _global(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.push(_Global(module, name))


# The functions that a state dict calls.
_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _Machine.rebuild,
    ("torch._utils", "_rebuild_tensor"): _Machine.rebuild,
    ("torch._utils", "_rebuild_parameter"): _Machine.first,
    ("torch._utils", "_rebuild_parameter_with_state"): _Machine.first,
    ("torch._tensor", "_rebuild_from_type_v2"): _Machine.rebuild_from_type,
    ("collections", "OrderedDict"): _Machine.mapping,
    ("collections", "defaultdict"): _Machine.mapping,
    ("torch", "Size"): _Machine.first,
}

_VALUES = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING
SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
BINBYTES8 BYTEARRAY8"""

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **{name: _Machine.push for name in _VALUES.split()},
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": _drop(1),
    "POP_MARK": _to_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_DICT": _new_mapping,
    "EMPTY_LIST": _new_list,
    "EMPTY_SET": _inert,
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.make_tuple(machine.from_mark()),
    "DICT": _dictionary,
    "LIST": _list,
    "FROZENSET": _marked_object,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.from_mark()),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.from_mark()),
    "ADDITEMS": _to_mark,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _global,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _drop(1),
    "NEWOBJ": _new_object(2),
    "NEWOBJ_EX": _new_object(3),
    "INST": _marked_object,
    "OBJ": _marked_object,
    "BINPERSID": _Machine.persistent,
    "PERSID": _inert,
}


def load_pth(path: Path) -> dict:
    """Return the mapping in a file that `torch.save` wrote, with a `Tensor` for every
    tensor and an inert object for anything else.

    **Raises:**

    A `ValueError` or `IndexError` for a file that is not one, or damaged; nothing is
    read beyond the file, and no more than a few times its size is taken.
    """
    loaded = _load_zip(path) if zipfile.is_zipfile(path) else _load_legacy(path)
    if not isinstance(loaded, dict):
        raise ValueError("it holds no mapping of names to tensors")
    return loaded


def _load_zip(path: Path) -> Any:
    size = path.stat().st_size
    archive = zipfile.ZipFile(path)
    members = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ValueError("it has compressed members, which PyTorch does not write")
    if sum(info.file_size for info in members.values()) > size:
        raise ValueError("its members are larger than the file")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} members data.pkl instead of one")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members:
        if archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are in the order of big-endian machines")
    machine = _Machine(size)
    loaded = machine.run(BytesIO(archive.read(pickles[0])))
    for storage in machine.storages.values():
        info = members.get(f"{folder}data/{storage.key}")
        wanted = storage.count * storage.dtype.itemsize
        if info is None or info.file_size < wanted:
            raise ValueError(f"the storage {storage.key!r} is not all there")
        data = archive.read(info)
        machine.numbers[storage.key] = np.frombuffer(data, storage.dtype, storage.count)
    return loaded


_MAGIC = 0x1950A86A20F9469CFC6C


def _load_legacy(path: Path) -> Any:
    # Before PyTorch 1.6: a pickle after the other, then the bytes of all storages.
    data = path.read_bytes()
    file, machine = BytesIO(data), _Machine(len(data))
    filled = machine.numbers
    if machine.run(file) != _MAGIC:
        raise ValueError("PyTorch did not write this file")
    machine.run(file)  # the version of the format
    machine.run(file)  # the machine that wrote it
    loaded, keys = machine.run(file), machine.run(file)
    if not isinstance(keys, list):
        raise ValueError("it has no list of its storages")
    place = file.tell()
    for key in keys:
        storage = machine.storages.get(key) if isinstance(key, str) else None
        if storage is None or key in filled:
            raise ValueError(f"it lists the storage {key!r}, of no tensor or twice")
        wanted = storage.count * storage.dtype.itemsize
        count = int.from_bytes(data[place : place + 8], "little", signed=True)
        place += 8
        if count != storage.count or place + wanted > len(data):
            raise ValueError(f"the storage {key!r} is not all there")
        filled[key] = np.frombuffer(data, storage.dtype, count, place)
        place += wanted
    missing = machine.storages.keys() - filled.keys()
    if missing:
        raise ValueError(f"the storages {sorted(missing)[:8]} are not there")
    return loaded
