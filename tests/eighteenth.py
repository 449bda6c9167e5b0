"""An architecture of somebody else's, whose fields have names of their own."""

import equinox as eqx
import eqx_vit
import jax.numpy as jnp
import jax.random as jr
from beartype import beartype
from eqx_vit.families import maps, positions
from eqx_vit.layers import (
    AnyArray,
    Attention,
    Block,
    check_multiple,
    FeedForward,
    LayerNorm,
    Linear,
    pair,
    PatchEmbedding,
    replaced,
    Stack,
)
from jaxtyping import Array, Float, jaxtyped


_S = "{self.side[0]} {self.side[1]}"


class Eighteenth(eqx.Module):
    """A vision transformer whose head sees the maximum over the tokens."""

    embed: PatchEmbedding
    places: Array
    trunk: Stack
    norm: LayerNorm
    last_head: Linear | None
    side: tuple[int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        image_size=32,
        patch_size=8,
        num_classes=1000,
        dim=16,
        depth=2,
        dropout=0.0,
        stochastic_depth=0.0,
        channels=3,
        key,
    ):
        embed_key, place_key, trunk_key, head_key = jr.split(key, 4)
        self.side, self.channels = pair(image_size), channels
        self.embed = PatchEmbedding(patch_size, channels, dim, key=embed_key)
        rows, columns = _grid(self)
        self.places = 0.02 * jr.normal(place_key, (rows * columns, dim))

        def make_block(key):
            attention_key, mlp_key = jr.split(key)
            attention = Attention(dim, 2, dim // 2, dropout, key=attention_key)
            return Block(dim, attention, FeedForward(dim, 2 * dim, key=mlp_key))

        self.trunk = Stack(make_block, depth, stochastic_depth, key=trunk_key)
        self.norm = LayerNorm(dim)
        self.last_head = Linear(dim, num_classes, key=head_key) if num_classes else None

    @jaxtyped(typechecker=beartype)
    def __call__(self, image: Float[AnyArray, f"{_S} {{self.channels}}"], *, key=None):
        x = self.embed(image)
        x = self.trunk(x + self.places.astype(x.dtype), key=key)
        x = self.norm(jnp.max(x, axis=0))
        return x if self.last_head is None else self.last_head(x)


def _grid(model):
    return positions.grid(model.side, model.embed.patch_size)


def _resize(model, image_size):
    check_multiple("image_size", image_size, "patch_size", model.embed.patch_size)
    grid = positions.grid(image_size, model.embed.patch_size)
    table = positions.resized_table(model.places, _grid(model), grid)
    return replaced(model, places=table, side=image_size)


eqx_vit.register(
    eqx_vit.Family(
        model=Eighteenth,
        tiny=dict(patch_size=7, dim=48, depth=3),
        heads=lambda model: {"last_head": model.norm.weight.size},
        resize=_resize,
        features=lambda model, found: [maps.feature(x, _grid(model)) for _, x in found],
        attention=lambda model, found: [
            maps.whole(x, _grid(model), _grid(model)) for _, x in found
        ],
        head_reads=lambda model: "patches",
        rollout=True,
    )
)
