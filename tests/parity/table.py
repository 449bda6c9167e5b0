"""Published variants, whole, against their reference implementations: the table of
`docs/parity.md`, which `python -m tests.parity.table` writes.

The weights are random, since nothing is downloaded; the file, its names, the sizes, the
preprocessing and the photograph are the real ones.
"""

from .conftest import torch  # first, since it makes torchvision importable


# isort: split
import argparse
import sys
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import eqx_vit
import jax.random as jr
import numpy as np
import timm
from matplotlib import cbook
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CvtConfig, CvtForImageClassification


PAGE = Path(__file__).parents[2] / "docs" / "parity.md"
PHOTOGRAPH = Image.open(cbook.get_sample_data("grace_hopper.jpg"))

# A name, and the file its weights come in.
VARIANTS = {
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": "model.safetensors",
    "vit_base_patch32_224.augreg_in21k_ft_in1k": "model.npz",
    "deit_tiny_distilled_patch16_224.fb_in1k": "model.pth",
    "deit3_small_patch16_224.fb_in22k_ft_in1k": "model.safetensors",
    "vit_small_patch14_reg4_dinov2.lvd142m": "model.safetensors",
    "vit_base_patch32_clip_quickgelu_224.openai": "model.safetensors",
    "vit_base_patch16_siglip_224.webli": "model.safetensors",
    "vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k": "model.safetensors",
    "vit_small_patch16_18x2_224": "model.safetensors",
    "cait_xxs24_224.fb_dist_in1k": "model.pth",
    "crossvit_9_240.in1k": "model.safetensors",
    "crossvit_9_dagger_240.in1k": "model.safetensors",
    "pit_ti_distilled_224.in1k": "model.safetensors",
    "cvt_13": "pytorch_model.bin",
    "levit_128s.fb_dist_in1k": "model.safetensors",
    "levit_conv_128s.fb_dist_in1k": "model.pth",
    "nest_tiny_jx.goog_in1k": "model.safetensors",
    "twins_svt_small.in1k": "model.safetensors",
    "vit_small_plus_patch16_dinov3_qkvb.lvd1689m": "model.safetensors",
}


@dataclass(frozen=True)
class Row:
    name: str
    reference: str
    file: str
    pixels: float  # largest difference after preprocessing, NaN if not compared
    logits: float  # largest difference of the logits
    back: float  # the same, of the reference with the weights that we saved
    largest: float  # of the logits


def compare(name: str, folder: Path) -> Row:
    """One row: `name` and its reference on the photograph, by way of files."""
    record, path = eqx_vit.zoo[name], folder / VARIANTS[name]
    theirs = _spread(_reference(record))
    settings = {}
    if record.model is eqx_vit.CvT:  # transformers computes with the exact GELU
        settings["activation"] = eqx_vit.layers.gelu
    if path.suffix == ".npz":
        _write_npz(record, theirs, path)
    elif path.suffix == ".safetensors":
        save_file(theirs.state_dict(), path)
    elif path.suffix == ".bin":
        torch.save(theirs.state_dict(), path)
    else:  # as training scripts save it, around it what is no tensor
        around = {"epoch": 300, "args": argparse.Namespace(model=name)}
        torch.save({"model": theirs.state_dict(), **around}, path)

    key = jr.key(0)
    model, state = eqx_vit.create_model(name, weights=path, settings=settings, key=key)
    image = eqx_vit.preprocess(record, PHOTOGRAPH)
    their_image = _preprocess(record, theirs, image)
    logits = np.asarray(eqx_vit.predict(model, image[None], state))
    their_logits = _logits(theirs, their_image)

    saved = folder / "saved.safetensors"
    eqx_vit.save_weights(model, saved, state, names=_names(name))
    again = _reference(record)
    again.load_state_dict(load_file(saved), strict=True)
    again.eval()
    return Row(
        name=name,
        reference=type(theirs).__module__.partition(".")[0],
        file=path.suffix,
        pixels=np.nan if their_image is image else _difference(image, their_image),
        logits=_difference(logits, their_logits),
        back=_difference(_logits(again, their_image), their_logits),
        largest=float(np.abs(their_logits).max()),
    )


def _difference(ours, theirs) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def _names(name: str) -> str:
    if name.startswith("cvt"):
        return "transformers"
    return "timm_conv" if name.startswith("levit_conv") else "timm"


def _reference(record):
    if record.model is eqx_vit.CvT:
        return CvtForImageClassification(CvtConfig(num_labels=record.num_classes))
    return timm.create_model(record.name, num_classes=record.num_classes)


def _spread(module):
    """Random parameters that let a signal through any depth."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.normal_(0, fan_in**-0.5, generator=generator)
            if tensor.ndim == 1 and name.endswith(("weight", "gamma", "gamma_1")):
                tensor += 1
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
    return module.eval()


def _write_npz(record, theirs, path: Path) -> None:
    """The names of Google's files, which timm reads but does not write."""
    make = eqx_vit.create_model
    model, state = make(record.name, weights=theirs.state_dict(), key=jr.key(0))
    eqx_vit.save_weights(model, path, state)
    theirs.load_pretrained(str(path))


def _preprocess(record, theirs, image):
    if record.model is eqx_vit.CvT:
        return image  # transformers has no model-specific transform without the hub
    config = timm.data.resolve_data_config(model=theirs)
    transform = timm.data.create_transform(**config)
    return transform(PHOTOGRAPH).permute(1, 2, 0).numpy()


def _logits(module, image):
    with torch.no_grad():
        logits = module(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None])
    return getattr(logits, "logits", logits).numpy()


def _text(number: float) -> str:
    return "not compared" if np.isnan(number) else f"{number:.1e}"


def main() -> None:
    rows = []
    for name in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(name, Path(folder)))
        print(rows[-1], file=sys.stderr)
    lines = [
        "| variant | reference | file | pixels | logits | saved back | largest |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name, reference, file, *numbers = astuple(row)
        cells = [f"`{name}`", reference, f"`{file}`", *map(_text, numbers)]
        lines.append("| " + " | ".join(cells) + " |")
    head, mark, _ = PAGE.read_text().partition("<!-- table -->\n")
    PAGE.write_text(head + mark + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
