"""The classes of transformers that are ours: weights and outputs, both ways. The table
of them in the documentation is written by `python -m tests.parity.formats`."""

from .conftest import torch  # first, since it makes torchvision importable


# isort: split
import tempfile
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import transformers
from eqx_vit.families import families
from safetensors.torch import load_file

from .helpers import channels_first, random_images, randomised


SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    image_size=32,
    patch_size=8,
)
DINO = {k: v for k, v in SIZES.items() if k != "intermediate_size"} | dict(mlp_ratio=2)
PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
LEVIT = dict(
    image_size=64,
    hidden_sizes=[16, 32, 32],
    num_attention_heads=[2, 2, 4],
    depths=[2, 1, 1],
    key_dim=[4, 4, 4],
)
CVT = dict(
    embed_dim=[8, 8, 16],
    num_heads=[1, 2, 2],
    depth=[1, 2, 3],  # (there each stage needs as many as its number)
    mlp_ratio=[1.0, 2.0, 2.0],
)
LABELS = dict(num_labels=5)
MASKED = dict(mask_ratio=0.0)  # of MAE only

# The class, and the settings of its configuration.
CLASSES = {
    "ViTForImageClassification": SIZES | LABELS,
    "ViTModel": SIZES | dict(hidden_act="gelu_new"),
    "DeiTForImageClassification": SIZES | LABELS,
    "DeiTForImageClassificationWithTeacher": SIZES | LABELS,
    "DeiTModel": SIZES,
    "Dinov2ForImageClassification": DINO | LABELS,
    "Dinov2Model": DINO | dict(use_swiglu_ffn=True),
    "Dinov2WithRegistersForImageClassification": DINO | LABELS,
    "Dinov2WithRegistersModel": DINO,
    "CLIPVisionModel": SIZES,
    "CLIPVisionModelWithProjection": SIZES | dict(projection_dim=12),
    "CLIPForImageClassification": dict(vision_config=SIZES) | LABELS,
    "SiglipVisionModel": SIZES,
    "SiglipForImageClassification": dict(vision_config=SIZES) | LABELS,
    "ViTMAEModel": SIZES | MASKED,
    "ViTMSNForImageClassification": SIZES | LABELS,
    "IJepaForImageClassification": SIZES | LABELS,
    "IJepaModel": SIZES,
    "DINOv3ViTModel": SIZES | dict(num_register_tokens=2),
    "LevitForImageClassification": LEVIT | LABELS,
    "LevitForImageClassificationWithTeacher": LEVIT | LABELS,
    "LevitModel": LEVIT,
    "CvtForImageClassification": CVT | LABELS,
}


def build(name):
    kind = getattr(transformers, name)
    config = kind.config_class(**CLASSES[name], architectures=[name])
    return randomised(kind(config))


def kind_of(config):
    """Our class, and how it is described there."""
    return next(
        (family, kind)
        for family in families().values()
        for kind in family.kinds
        if config["model_type"] in kind.model_types
    )


def ours(theirs):
    config = theirs.config.to_dict()
    family, kind = kind_of(config)
    arguments = kind.read(config)
    if family.model in (eqx_vit.CvT, eqx_vit.DINOv3):
        del arguments["image_size"]
    make = eqx.nn.make_with_state(family.model)
    return make(**arguments, key=jr.key(0))


def outputs(theirs, images, **options):
    """Whatever of theirs is what our model returns."""
    if isinstance(theirs, transformers.ViTMAEModel):  # it shuffles the patches
        options["noise"] = torch.arange(16.0).expand(len(images), 16)
    with torch.no_grad():
        found = theirs(pixel_values=channels_first(images), **options)
    pooled = isinstance(
        theirs, transformers.SiglipVisionModel | transformers.CLIPVisionModel
    )
    for name in ("logits", "image_embeds", *(["pooler_output"] if pooled else [])):
        if getattr(found, name, None) is not None:
            return getattr(found, name).numpy()
    tokens = found.last_hidden_state.numpy()
    is_jepa = isinstance(theirs, transformers.IJepaModel)
    return tokens.mean(1) if is_jepa else tokens[:, 0]


class Row(NamedTuple):
    """Largest differences of the outputs for two images.

    - `read`: Ours, with their weights, from theirs.
    - `written`: Theirs, with the weights that we saved, from theirs.
    - `largest`: Of their outputs.
    """

    read: float
    written: float
    largest: float


def compare(name: str, spelling: str, folder: Path) -> Row:
    """One class; `spelling` is `"live"` for a `state_dict()`, `"disk"` for a file."""
    reference = build(name)
    source = reference.state_dict()
    if spelling == "disk":
        reference.save_pretrained(folder / "theirs")
        source = folder / "theirs" / "model.safetensors"
    model, state = ours(reference)
    model, state = eqx_vit.load_weights(model, source, state)
    side = getattr(reference.config, "image_size", None) or 32
    images = random_images(2, side, side, 3)
    wanted = outputs(reference, images)
    found = np.asarray(eqx_vit.predict(model, jnp.asarray(images), state))

    path = folder / "ours.safetensors"
    eqx_vit.save_weights(model, path, state, names="transformers")
    _, kind = kind_of(reference.config.to_dict())
    written = kind.write(model) | LABELS | MASKED
    again, info = type(reference).from_pretrained(
        None,
        config=type(reference.config).from_dict(written),
        state_dict=load_file(path),
        output_loading_info=True,
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    unused = ("pooler.", "vision_model.head.")
    assert all(key.startswith(unused) for key in info["missing_keys"])
    back = outputs(again.eval(), images)
    difference = lambda one, other: float(np.abs(one - other).max())
    largest = float(np.abs(wanted).max())
    return Row(difference(found, wanted), difference(back, wanted), largest)


def main() -> None:
    lines = [
        "| class of transformers | here | read | written |",
        "|---|---|---|---|",
    ]
    for name in CLASSES:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(name, "disk", Path(folder))
        family, _ = kind_of(build(name).config.to_dict())
        kind = f"[`{family.model.__name__}`][eqx_vit.{family.model.__name__}]"
        cells = (f"`{name}`", kind, f"{row.read:.1e}", f"{row.written:.1e}")
        lines.append("| " + " | ".join(cells) + " |")
    head, mark, tail = PAGE.read_text().partition("<!-- table -->\n")
    tail = tail.partition("<!-- end -->")[2]
    text = "\n".join(lines)
    PAGE.write_text(f"{head}{mark}\n{text}\n\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
