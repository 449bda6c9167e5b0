"""Models in ONNX Runtime, by the ways of `docs/runtimes.md`. Its tables are written by
`python -m tests.parity.runtimes`."""

from .conftest import torch  # first, since it makes torchvision importable


# isort: split
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import onnx
import onnxruntime
import timm
import transformers
import vit_pytorch
from safetensors.torch import load_file

from ..helpers import images_for, models, randomised
from .table import PHOTOGRAPH


PAGE = Path(__file__).parents[2] / "docs" / "runtimes.md"
TOLERANCE = 1e-4
SIZES = dict(image_size=32, patch_size=8, dim=32, depth=2, heads=2, dim_head=16)
VIT = SIZES | dict(mlp_dim=64, num_classes=4, qkv_bias=True)
LEVIT = dict(image_size=64, stages=3, dim=(16, 32, 32), depth=1, heads=2, dim_key=4)


def _timm(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def _transformers(folder: Path) -> torch.nn.Module:
    kind = transformers.AutoModelForImageClassification
    model = kind.from_pretrained(folder, attn_implementation="eager")
    return _Logits(model)


class _Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


def _simple_vit(folder: Path) -> torch.nn.Module:
    model = vit_pytorch.SimpleViT(**SIZES, mlp_dim=64, num_classes=4)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


class Way(NamedTuple):
    """Through PyTorch: our class and its settings, whose names are saved, and the
    reference that opens them."""

    model: Callable
    settings: dict
    library: str
    open: Callable[[Path], torch.nn.Module]


THROUGH_TORCH = {
    "ViT, timm": Way(eqx_vit.ViT, VIT, "timm", _timm),
    "ViT, transformers": Way(eqx_vit.ViT, VIT, "transformers", _transformers),
    "LeViT, transformers": Way(
        eqx_vit.LeViT,
        LEVIT | dict(dim_value=8, num_classes=4, distilled=True),
        "transformers",
        _transformers,
    ),
    "SimpleViT, vit_pytorch": Way(
        eqx_vit.SimpleViT,
        SIZES
        | dict(mlp_dim=64, num_classes=4, patch_norm=True, norm_eps=1e-5)
        | dict(activation=eqx_vit.layers.gelu),
        "vit_pytorch",
        _simple_vit,
    ),
}


class Row(NamedTuple):
    """The largest difference of the logits in ONNX Runtime from JAX's, the largest
    logit, and the number of operations in the file."""

    difference: float
    largest: float
    operations: int

    @property
    def is_close(self) -> bool:
        return self.difference <= TOLERANCE * min(1, self.largest)


def directly(name: str, path: Path) -> Row:
    """`export_onnx`, of a small instance."""
    model, state = _made(models[name])
    photographs = _photographs(images_for(name, 1).shape[1])
    eqx_vit.export_onnx(model, path, photographs.shape[1:3], state)
    return _compare(model, state, path, photographs, photographs)


def through_torch(name: str, folder: Path) -> Row:
    """What we saved, opened by a reference, and `torch.onnx.export`."""
    way = THROUGH_TORCH[name]
    model, state = _made(way.model, **way.settings)
    if way.library == "vit_pytorch":
        path = folder / "model.safetensors"
        eqx_vit.save_weights(model, path, state, names=way.library)
    else:
        eqx_vit.save_pretrained(model, folder, state, format=way.library)
    photographs = _photographs(model.image_size[0])
    theirs = way.open(folder).eval()
    channels_first = np.moveaxis(photographs, -1, 1)
    torch.onnx.export(
        theirs,
        (torch.tensor(channels_first),),
        folder / "model.onnx",
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    path = folder / "model.onnx"
    return _compare(model, state, path, photographs, channels_first)


def _made(kind, **settings):
    """With every parameter and running statistic drawn anew."""
    model, state = eqx.nn.make_with_state(kind)(**settings, key=jr.key(0))
    generator = np.random.default_rng(2)
    drawn = lambda x: jnp.asarray(generator.uniform(0.5, 2, x.shape), x.dtype)
    return randomised(model, jr.key(1), scale=0.3), jax.tree.map(drawn, state)


def _photographs(side: int) -> np.ndarray:
    """A photograph, and the same mirrored both ways."""
    pixels = np.asarray(PHOTOGRAPH.resize((side, side)), np.float32) / 127.5 - 1
    return np.stack([pixels, pixels[:, ::-1], pixels[::-1]])


def _compare(model, state, path, photographs, images) -> Row:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images})
    one = session.run(["logits"], {"images": images[:1]})[0]  # another size of batch
    wanted = np.asarray(eqx_vit.predict(model, jnp.asarray(photographs), state))
    assert found.shape == wanted.shape and one.shape == wanted[:1].shape
    difference = max(np.abs(found - wanted).max(), np.abs(one - wanted[:1]).max())
    return Row(float(difference), float(np.abs(wanted).max()), _operations(path))


def _operations(path: Path) -> int:
    return len(onnx.load(path, load_external_data=False).graph.node)


def _table(rows: dict[tuple[str, str], Row]) -> str:
    lines = ["| architecture | way | difference | largest |", "|---|---|---|---|"]
    for (name, way), row in rows.items():
        numbers = (f"{row.difference:.1e}", f"{row.largest:.1e}")
        lines.append("| " + " | ".join((f"`{name}`", way, *numbers)) + " |")
    return "\n".join(lines)


def main() -> None:
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            if hasattr(eqx_vit, name):
                row = directly(name, Path(folder, f"{name}.onnx"))
                rows[name, "`export_onnx`"] = row
        for name, way in THROUGH_TORCH.items():
            inner = Path(folder, re.sub(r"\W", "", name))
            inner.mkdir()
            row = through_torch(name, inner)
            rows[way.model.__name__, f"`{way.library}`, `torch.onnx`"] = row
    for (name, way), row in rows.items():
        print(name, way, *row)
    head, mark, tail = PAGE.read_text().partition("<!-- table -->\n")
    tail = tail.partition("<!-- end -->")[2]
    PAGE.write_text(f"{head}{mark}\n{_table(rows)}\n\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
