"""The pictures of `docs/gallery.md`: what each architecture sees in the same digit.
`python -m tests.benchmarks.gallery` trains tiny sizes of all and draws them."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from eqx_vit import predict
from eqx_vit.cli.runs import load_run_or_published
from eqx_vit.data import open_data
from eqx_vit.families import families
from eqx_vit.interpret.plot import explain


# The last map of CvT's tiny size is one token for a digit's 28 pixels.
SIDES = {"CvT": 56}
PICTURES = Path(__file__).parents[2] / "docs" / "gallery"


def train(name: str, folder: Path) -> Path:
    """The run of a model, trained if it is not there."""
    out = folder / name
    if not (out / "weights.safetensors").is_file():
        command = [sys.executable, "-m", "eqx_vit", "train", "--model", name]
        command += ["--epochs", "10", "--warmup", "1", "--out", str(out)]
        if name in SIDES:
            command += ["--image-size", str(SIDES[name])]
        subprocess.run(command, check=True)
    return out


def draw(name: str, folder: Path, number: int) -> None:
    loaded = load_run_or_published(str(folder), None)
    prepared = loaded.transform(open_data("digits").test.read(number))
    image = jnp.asarray(prepared)
    label = int(predict(loaded.model, image[None], loaded.state)[0].argmax())
    centre: Any = loaded.transform.transform
    pixels = centre.undo(prepared)
    figure = explain(loaded.model, image, loaded.state, pixels=pixels, label=label)
    figure.axes[0].set_title(f"{name}: {label}", fontsize=9)
    figure.savefig(PICTURES / f"{name}.png", dpi=80)
    print(f"{name} sees a {label}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="which to draw (default: all)")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--image", type=int, default=15, help="number of a test image")
    options = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    for name in options.models or families():
        draw(name, train(name, options.runs), options.image)


if __name__ == "__main__":
    main()
