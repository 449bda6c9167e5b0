"""Weight files that are damaged, or made to do harm: no code runs, no memory is taken
beyond a few times the file's size, and one `ValueError` names the file."""

import io
import json
import pickle
import resource
import struct
import zipfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from eqx_vit.pretrained.files import read_file
from eqx_vit.pretrained.weights import WeightFile
from eqx_vit.pretrained.wrappers import as_array
from safetensors.numpy import save_file


STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
STORAGES |= {"bfloat16": "BFloat16Storage", "bool": "BoolStorage"}


class Storage(NamedTuple):
    """The numbers of a tensor, with their key in the file."""

    key: str
    array: np.ndarray


def opcodes(*parts):
    """A pickle of these instructions, of protocol 2."""
    return b"\x80\x02" + b"".join(parts) + b"."


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key, count, kind="FloatStorage"):
    head = b"(" + text("storage") + glob("torch", kind) + text(key) + text("cpu")
    return head + number(count) + b"tQ"


REBUILD = glob("torch._utils", "_rebuild_tensor_v2")


def tensor(storage, offset=number(0), shape=numbers([2]), stride=numbers([1])):
    hooks = glob("collections", "OrderedDict") + b")R"
    return REBUILD + b"(" + storage + offset + shape + stride + b"\x89" + hooks + b"tR"


def dumped(state):
    """The pickle of a state as `torch.save` writes it, and its storages."""
    storages = []

    def dump(x):
        if isinstance(x, dict):
            pairs = (text(key) + dump(value) + b"s" for key, value in x.items())
            return glob("collections", "OrderedDict") + b")R" + b"".join(pairs)
        if isinstance(x, list):
            return b"](" + b"".join(map(dump, x)) + b"e"
        if isinstance(x, np.ndarray):
            key = str(len(storages))
            storages.append(Storage(key, np.ravel(x)))
            strides = [s // x.itemsize for s in x.strides]
            made = storage(key, x.size, STORAGES[str(x.dtype)])
            return tensor(made, number(0), numbers(x.shape), numbers(strides))
        if isinstance(x, float):
            return b"G" + struct.pack(">d", x)
        return b"N" if x is None else number(x)

    return opcodes(dump(state)), storages


def write_zip(path, pickled, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", b"3\n")


def write_legacy(path, pickled, storages):
    head = [
        pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little": True})
    ]
    keys = pickle.dumps([storage.key for storage in storages], 2)
    data = [struct.pack("<q", s.array.size) + s.array.tobytes() for s in storages]
    path.write_bytes(b"".join([*head, pickled, keys, *data]))


RNG = np.random.default_rng(0)
STATE = {
    "head.weight": RNG.normal(size=(3, 4)).astype(np.float32),
    "head.bias": RNG.normal(size=3).astype(np.float16),
    "half": RNG.normal(size=5).astype(jnp.bfloat16),
    "count": np.array(7),
    "empty": np.zeros((0, 4), np.float32),
}


def write(path, kind):
    if kind == "safetensors":
        save_file(STATE, path.with_suffix(".safetensors"))
    elif kind == "npz":
        np.savez(path.with_suffix(".npz"), **STATE)
    else:
        state = dict(model=STATE, epoch=3, lr=[0.1, 0.2], args=None)
        {"zip": write_zip, "legacy": write_legacy}[kind](
            path.with_suffix(".pth"), *dumped(state)
        )
    (found,) = path.parent.glob(f"{path.stem}.*")
    return found


KINDS = ["zip", "legacy", "npz", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files_are_read(kind, tmp_path):
    found = read_file(write(tmp_path / "whole", kind))
    found = found.get("model", found)
    assert found.keys() == STATE.keys()
    for name, array in STATE.items():
        assert np.asarray(found[name]).dtype == array.dtype
        assert np.array_equal(np.asarray(found[name]), array)


def limited(size):
    """The memory that a test may take beyond what there is."""
    pages = int(open("/proc/self/statm").read().split()[0])
    here = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + size, resource.RLIM_INFINITY))


@pytest.fixture
def little_memory():
    before = resource.getrlimit(resource.RLIMIT_AS)
    limited(2**29)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_edits_of_a_file(kind, tmp_path, little_memory, capsys):
    """Bytes changed, cut out, put in: it is read, or a `ValueError` names it."""
    path = write(tmp_path / "edited", kind)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    refused, storages = 0, []
    if kind == "zip":  # whose checksums would find most edits
        whole, storages = dumped({"model": STATE, "lr": [0.1, 0.2]})
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(data)))
            match rng.integers(4):
                case 0:
                    data[place] = rng.integers(256)
                case 1:
                    data[place] ^= 1 << int(rng.integers(8))
                case 2:
                    del data[place : place + int(rng.integers(1, 20))]
                case 3:
                    data[place:place] = rng.bytes(int(rng.integers(1, 20)))
        if kind == "zip":
            write_zip(path, bytes(data), storages)
        else:
            path.write_bytes(data)
        try:
            contents = WeightFile(path).contents
            inner = contents.get("model")
            inner = inner if isinstance(inner, dict) else contents
            for name, value in inner.items():
                if hasattr(value, "shape"):
                    as_array(str(name), value).sum(dtype=np.float64)
        except ValueError as error:
            refused += 1
            assert path.name in str(error)
    with capsys.disabled():
        print(f"\n{kind}: 1000 files tried, {refused} refused", end="")
    assert refused > 100


def named(value):
    return opcodes(b"}", text("head.weight"), value, b"s")


FOUR = storage("0", 4)

ATTACKS = {
    # A view of a view would pass the check of its bounds.
    "a tensor for a storage": named(
        tensor(tensor(FOUR, stride=numbers([0])), number(2**30))
    ),
    "outside": named(tensor(FOUR, number(3))),
    "a stride outside": named(tensor(FOUR, stride=numbers([2**28]))),
    "negative": named(tensor(FOUR, number(-1))),
    "no numbers": named(tensor(FOUR, shape=text("two") + b"\x85")),
    "many times the file": named(
        tensor(FOUR, shape=numbers([2**30]), stride=numbers([0]))
    ),
    "a storage larger than the file": named(tensor(storage("0", 2**30))),
    "a storage that is not there": named(tensor(storage("1", 4))),
    "a view of a storage": named(
        tensor(FOUR[:-2] + b"(" + text("v") + number(0) + number(4) + b"ttQ")
    ),
    "a memo index": opcodes(b"}r\xff\xff\xff\x7f", b"j\xfe\xff\xff\x7f"),
    "an instruction": opcodes(b"\x82\x01"),
    "nothing on the stack": opcodes(b"R"),
    "no mark": opcodes(b"}t"),
    "a million mappings": opcodes(b"(" + 1_000_000 * b"}" + b"l"),
    "a million tuples": opcodes(b")" + 1_000_000 * b"\x85"),
    "a number of a million digits": opcodes(b"I" + 1_000_000 * b"9" + b"\n"),
    "no mapping": opcodes(b"K\x01"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused(attack, tmp_path, little_memory):
    path = tmp_path / "attack.pth"
    write_zip(path, ATTACKS[attack], [Storage("0", np.zeros(4, np.float32))])
    with pytest.raises(ValueError, match="attack.pth"):
        WeightFile(path)


def test_a_key_that_takes_for_ever_to_hash_is_no_name(tmp_path):
    doubled = b")" + 64 * b"q\0h\0\x86"
    path = tmp_path / "attack.pth"
    write_zip(path, opcodes(b"}", doubled, b"Ns"), [])
    assert WeightFile(path).contents == {}


def test_a_state_reaches_no_object_that_others_share(tmp_path):
    """BUILD gave the shared dtype of bfloat16 another byte order."""
    harm = (
        glob("torch", "BFloat16Storage")
        + b"(K\x03"
        + text(">")
        + b"NNNJ\xff\xff\xff\xff"
    )
    harm += b"J\xff\xff\xff\xffK\0tb"
    path = tmp_path / "attack.pth"
    write_zip(path, opcodes(b"}", text("a"), harm, b"s"), [])
    WeightFile(path)
    found = read_file(write(tmp_path / "after", "zip"))["model"]["half"]
    assert np.array_equal(np.asarray(found), STATE["half"])


def test_a_name_of_a_method_does_not_hide_it(tmp_path):
    pickled, storages = dumped({"model": STATE, "items": 3, "keys": 4})
    write_zip(tmp_path / "odd.pth", pickled, storages)
    contents = WeightFile(tmp_path / "odd.pth").contents
    assert contents["model"].keys() == STATE.keys()


def test_a_legacy_file_without_all_storages(tmp_path):
    pickled, storages = dumped({"model": STATE})
    write_legacy(tmp_path / "cut.pth", pickled, storages[:-1])
    with pytest.raises(ValueError, match="cut.pth.*are not there"):
        WeightFile(tmp_path / "cut.pth")


def test_bombs_are_refused(tmp_path, little_memory):
    zeros = [Storage("0", np.zeros(10**7, np.float32))]
    pickled = named(tensor(storage("0", 10**7)))
    write_zip(tmp_path / "bomb.pth", pickled, zeros, zipfile.ZIP_DEFLATED)
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(10**7, np.float32))
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        file = io.BytesIO()
        np.save(file, np.zeros(4, np.float32))
        data = file.getvalue().replace(b"(4,), ", b"(4000000000,), ")
        archive.writestr("zeros.npy", data)
    for name in ("bomb.pth", "bomb.npz", "liar.npz"):
        with pytest.raises(ValueError, match=name):
            WeightFile(tmp_path / name)


def test_a_type_that_is_no_weight_is_named(tmp_path):
    header = {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path = tmp_path / "eight.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(ValueError, match="`a` is of type F8_E4M3.*Convert it"):
        WeightFile(path)
    objects = {"a": np.array([{}], object), "b": np.zeros(2, [("x", "f4")])}
    for name, array in objects.items():
        np.savez(tmp_path / f"{name}.npz", allow_pickle=True, **{name: array})
        with pytest.raises(ValueError, match=f"{name}.npz"):
            WeightFile(tmp_path / f"{name}.npz")
