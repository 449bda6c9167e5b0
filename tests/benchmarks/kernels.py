"""What a training step moves on an NVIDIA GPU, read from its program without a GPU.

    pip install "jax[cuda13]"
    python -m tests.benchmarks.kernels

compiles a step on 256 images in bfloat16 for an H200, as `eqx-vit train` runs it, and
prints for each model the bytes that its kernels read and write: products, attention,
convolutions, reductions (normalisations and the gradients of biases) and the rest, and
the largest that are neither products nor attention. It writes
`docs/benchmarks/kernels.csv`."""

import argparse
import collections
import functools
import math
import os
import re
import sys
from typing import Any, NamedTuple


# (Autotuning would run kernels.)
os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}

import equinox as eqx  # noqa: E402
import eqx_vit  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import optax  # noqa: E402
from eqx_vit.layers import _cudnn  # noqa: E402
from eqx_vit.training import unroll  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from .measuring import DOCS, read_csv, write_csv  # noqa: E402
from .startup import MODELS  # noqa: E402


H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
KINDS = ("product", "attention", "convolution", "reduction", "other")


class Kernel(NamedTuple):
    kind: str
    bytes: int
    shape: str
    origin: str


def compile_step(name: str, batch: int = 256) -> str:
    """The program of a training step of a published model, as text."""
    topology = topologies.get_topology_desc(
        "", "cuda", topology="1x1x1", target_config=H200
    )
    place = jax.sharding.SingleDeviceSharding(topology.devices[0])
    optimizer = optax.adamw(1e-5)
    make = functools.partial(eqx_vit.create_model, name)
    model, state = eqx.filter_eval_shape(make, key=jr.key(0))
    model = unroll(model)
    start = lambda model: optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    shapes = model, state, eqx.filter_eval_shape(start, model)
    is_array = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(shapes, is_array)

    def step(arrays, images, labels, key):
        trees: Any = eqx.combine(arrays, static)
        batch: Any = (images, labels, optimizer)
        stepped = eqx_vit.train_step(
            *trees, *batch, compute_dtype=jnp.bfloat16, key=key
        )
        return eqx.filter(stepped, eqx.is_array)

    inputs = (
        arrays,
        jax.ShapeDtypeStruct((batch, *eqx_vit.zoo[name].image_size, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.eval_shape(lambda: jr.key(0)),
    )
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), inputs
    )
    lowered = jax.jit(step, donate_argnums=0).lower(*inputs)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError:
        # Without autotuning Triton is given each product, also one that it cannot tile.
        program = lowered.compile({"xla_gpu_enable_triton_gemm": False})
    return program.as_text() or ""


def kernels(program: str) -> list[Kernel]:
    """The kernels of a compiled program."""
    bodies: dict[str, list[str]] = {}
    body: list[str] = []
    for line in program.splitlines():
        if line.endswith("{") and "(" in line:
            name = re.sub(r"^ENTRY .*", "ENTRY", line).split(" ")[0].lstrip("%")
            body = bodies.setdefault(name, [])
        elif line.startswith("  "):
            body.append(line)
    pattern = re.compile(r"\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
    found = [match.groups() for match in map(pattern.match, bodies["ENTRY"]) if match]
    sizes = {name: _bytes(shape) for name, shape, _, _ in found}
    free = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant")
    rows = []
    for name, shape, operation, rest in found:
        if operation in free or operation.endswith("-done"):
            continue
        if operation in ("while", "call", "conditional"):
            raise ValueError(f"What {name} moves is not counted.")
        inputs = re.findall(r"%([\w.-]+)", rest.partition("), ")[0])
        called = re.search(r"calls=%?([\w.-]+)", rest)
        inside = "\n".join(bodies.get(called[1], [])) if called else ""
        origin = re.search(r'op_name="([^"]*)"', rest)
        moved = sizes[name] + sum(sizes.get(place, 0) for place in inputs)
        kind = _kind(operation, rest, inside)
        rows.append(Kernel(kind, moved, shape, origin[1] if origin else ""))
    return rows


def _kind(operation: str, rest: str, body: str) -> str:
    if "fmha" in rest:
        return "attention"
    if "conv" in rest.partition("custom_call_target")[2][:40] or "convolution(" in body:
        return "convolution"
    if operation == "dot" or "gemm" in rest or re.search(r" dot\(", body):
        return "product"
    return "reduction" if " reduce(" in body else "other"


def _bytes(shape: str) -> int:
    return sum(
        BYTES.get(dtype, 0) * math.prod(map(int, filter(None, sides.split(","))))
        for dtype, sides in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="which to compile (default: all)")
    parser.add_argument("--largest", type=int, default=12, help="kernels to print")
    options = parser.parse_args()
    on_cuda = _cudnn.on_cuda
    for module in list(sys.modules.values()):
        if getattr(module, "on_cuda", None) is on_cuda:
            setattr(module, "on_cuda", lambda: True)
    path = DOCS / "benchmarks" / "kernels.csv"
    rows = {row["model"]: row for row in read_csv(path)} if options.models else {}
    for name in options.models or MODELS:
        found = kernels(compile_step(name))
        row: dict[str, Any] = {"model": name, "kernels": len(found)}
        for kind in KINDS:
            moved = sum(kernel.bytes for kernel in found if kernel.kind == kind)
            row[f"{kind}_gb"] = f"{moved / 1e9:.1f}"
        print(row, flush=True)
        rest: Any = collections.Counter()
        for kernel in found:
            if kernel.kind not in ("product", "attention"):
                origin = kernel.origin.replace("closed_call/", "")
                rest[kernel.kind, kernel.shape, origin] += kernel.bytes
        for (kind, shape, origin), moved in rest.most_common(options.largest):
            print(f"  {moved / 1e9:6.2f} GB  {kind:11}  {shape:.45}  {origin:.70}")
        rows[name] = row
        write_csv(path, rows.values())


if __name__ == "__main__":
    main()
