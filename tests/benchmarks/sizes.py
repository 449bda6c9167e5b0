"""Parameters and operations of every published size, and the maps of one of each
architecture: `docs/benchmarks/sizes.csv` and `stages.csv`, which
`python -m tests.benchmarks.sizes` writes and the documentation shows."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from eqx_vit import count_flops, create_model, features, predict, zoo

from .measuring import DOCS, write_csv


STAGES = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_dinov3",
    "cait_xxs24_224",
    "pit_ti_224",
    "t2t_vit_7",
    "deepvit_s",
    "levit_128s",
    "cvt_13",
    "crossformer_tiny",
    "nest_tiny_jx",
    "regionvit_tiny",
    "scalablevit_s",
    "twins_svt_small",
)


def size(name: str) -> dict[str, str]:
    """The numbers of a published size. Neither weights nor images are made."""
    create = functools.partial(create_model, name)
    model, state = eqx.filter_eval_shape(lambda key: create(key=key), jr.key(0))
    image = jax.ShapeDtypeStruct((1, *zoo[name].image_size, 3), "float32")
    arrays = jax.tree.leaves(eqx.filter(model, lambda x: hasattr(x, "dtype")))
    parameters = sum(int(np.prod(leaf.shape)) for leaf in arrays)
    flops = count_flops(predict, model, image, state)
    return {
        "name": name,
        "parameters_m": f"{parameters / 1e6:.4g}",
        "gflops": f"{flops / 1e9:.4g}",
    }


def stages(name: str) -> dict[str, str]:
    """The maps of the stages of a published size, or of one of its blocks."""
    side = zoo[name].image_size[0]

    def maps(key):
        model, state = create_model(name, key=key)
        return features(model, jnp.zeros((side, side, 3)), state)

    shapes = [f.map.shape for f in eqx.filter_eval_shape(maps, jr.key(0))]
    number = f"{len(shapes)} stages"
    if len(set(shapes)) == 1:
        number, shapes = f"{len(shapes)} blocks", shapes[:1]
    return {
        "name": name,
        "features": number,
        "strides": ", ".join(f"{side / height:.3g}" for height, _, _ in shapes),
        "channels": ", ".join(str(dim) for *_, dim in shapes),
    }


def main() -> None:
    names = dict.fromkeys(name.partition(".")[0] for name in zoo)
    write_csv(DOCS / "benchmarks" / "stages.csv", map(stages, STAGES))
    write_csv(DOCS / "benchmarks" / "sizes.csv", map(size, names))


if __name__ == "__main__":
    main()
