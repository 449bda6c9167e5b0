"""Which parameters an optimiser of Optax decays, and which it leaves alone."""

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

import equinox as eqx
import jax
import optax
from jaxtyping import PyTree

from .layers import Conv, DepthwiseConv, Linear, PEG


def decay_mask(model: PyTree) -> PyTree[bool]:
    """Where weight decay applies: to the weights of products alone.

    These are the weights of linear layers and convolutions. Biases, normalisations,
    LayerScale, tokens, position embeddings, tables of biases, temperatures, and the
    convolution that encodes positions in Twins, RegionViT and ScalableViT are not
    decayed, as in the recipes of DeiT, CaiT, LeViT and the rest:

        optax.adamw(schedule, weight_decay=0.05, mask=eqx_vit.decay_mask)

    **Arguments:**

    - `model`: A model, or a part of one, or its parameters.

    **Returns:**

    The same pytree with a `bool` in place of every array.
    """

    def is_known(module):
        return isinstance(module, Linear | Conv | DepthwiseConv | PEG)

    def decays(module):
        mask = jax.tree.map(lambda _: False, module)
        if not is_known(module) or isinstance(module, PEG):
            return mask
        return eqx.tree_at(lambda layer: layer.weight, mask, True)

    return jax.tree.map(decays, model, is_leaf=is_known)


def freeze(
    optimizer: optax.GradientTransformation, model: PyTree, patterns: Sequence[str]
) -> optax.GradientTransformation:
    """An optimiser that leaves a part of a model as it is.

    Neither updates nor decay reach what is frozen, and no moments are kept for it. To
    train the head alone:

        optimizer = eqx_vit.freeze(optax.adamw(1e-3), model, ["*", "!head*"])

    **Arguments:**

    - `optimizer`: From Optax.
    - `model`: The model.
    - `patterns`: The paths of what to freeze, as in a shell: `"patch_embedding*"`,
        `"transformer.blocks.attention*"`. One that begins with `!` takes out of the
        earlier ones what is to be trained.

    **Raises:**

    A `ValueError` for a pattern that no parameter has.
    """
    parameters = eqx.filter(model, eqx.is_inexact_array)
    leaves, structure = jax.tree_util.tree_flatten_with_path(parameters)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves
    ]
    labels = dict.fromkeys(paths, "trained")
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        matched = [path for path in paths if fnmatchcase(path, wanted)]
        if not matched:
            nearest = difflib.get_close_matches(wanted, paths, n=1, cutoff=0)
            raise ValueError(
                f"`patterns` has {pattern!r}, which is the path of no parameter; the "
                f"nearest is {nearest[0]!r}."
            )
        label = "frozen" if pattern == wanted else "trained"
        labels |= dict.fromkeys(matched, label)
    tree = jax.tree.unflatten(structure, labels.values())
    return optax.partition(
        {"trained": optimizer, "frozen": optax.set_to_zero()},
        lambda _: tree,  # which Optax would call itself, for a model can be called
    )
