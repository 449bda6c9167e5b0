import equinox as eqx
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ._array import AnyArray
from ._checks import pair
from ._linear import Linear
from ._norm import LayerNorm
from ._ranges import check_numbers


class PatchEmbedding(eqx.Module):
    """Cuts an image into patches and projects each to a token.

    One matrix product, equal to the convolution with `kernel = stride = patch_size` of
    other implementations.
    """

    patch_norm: LayerNorm | None
    linear: Linear
    token_norm: LayerNorm | None
    patch_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        patch_size: int | tuple[int, int],
        channels: int,
        dim: int,
        use_bias: bool = True,
        norm: bool = False,
        norm_eps: float = 1e-6,
        *,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `patch_size`: The side of a patch in pixels, or its `(height, width)`.
        - `channels`: The number of channels of the image.
        - `dim`: The size of a token.
        - `use_bias`: Whether the projection has a bias.
        - `norm`: Whether to normalise the pixels of a patch before and its token after
            the projection.
        - `norm_eps`: The `eps` of these two normalisations.
        - `key`: Randomness for the parameters. (Keyword only argument.)
        """
        check_numbers(PatchEmbedding.__init__, locals())
        height, width = self.patch_size = pair(patch_size)
        patch_dim = height * width * channels
        self.patch_norm = LayerNorm(patch_dim, norm_eps) if norm else None
        self.linear = Linear(patch_dim, dim, use_bias, key=key)
        self.token_norm = LayerNorm(dim, norm_eps) if norm else None

    def __call__(
        self,
        image: Float[AnyArray, "height width channels"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `image`: An image whose sides are multiples of the patch's.
        - `key`: Ignored. (Keyword only argument, for `equinox.nn.Sequential`.)

        **Returns:**

        One token per patch, row by row.
        """
        pattern = "(h p) (w q) c -> (h w) (p q c)"
        image = jnp.asarray(image)
        x = rearrange(image, pattern, p=self.patch_size[0], q=self.patch_size[1])
        x = x if self.patch_norm is None else self.patch_norm(x)
        x = self.linear(x)
        return x if self.token_norm is None else self.token_norm(x)
