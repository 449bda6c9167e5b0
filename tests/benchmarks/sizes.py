"""Parameters and operations of every published size: `docs/benchmarks/sizes.csv`, which
`python -m tests.benchmarks.sizes` writes and the page "Choose a model" shows."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from eqx_vit import count_flops, create_model, predict, zoo

from .measuring import DOCS, write_csv


def row(name: str) -> dict[str, str]:
    """The numbers of a published size. Neither weights nor images are made."""
    model, state = eqx.filter_eval_shape(
        lambda key: create_model(name, key=key), jr.key(0)
    )
    image = jax.ShapeDtypeStruct((1, *zoo[name].image_size, 3), "float32")
    arrays = jax.tree.leaves(eqx.filter(model, lambda x: hasattr(x, "dtype")))
    parameters = sum(int(np.prod(leaf.shape)) for leaf in arrays)
    flops = count_flops(predict, model, image, state)
    return {
        "name": name,
        "parameters_m": f"{parameters / 1e6:.4g}",
        "gflops": f"{flops / 1e9:.4g}",
    }


def main() -> None:
    names = dict.fromkeys(name.partition(".")[0] for name in zoo)
    write_csv(DOCS / "benchmarks" / "sizes.csv", map(row, names))


if __name__ == "__main__":
    main()
