import jax.numpy as jnp
import numpy as np

from ..models import SmallDatasetViT, SPT
from .family import Family, pooled_tokens, Variant
from .formats import Format, Names, Tensor, token, torch_names


def _common(attention: str, mlp: str) -> Names:
    ours = "transformer.blocks"
    return {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embedding"),
        f"{ours}.attention.qkv.weight": Tensor(f"{attention}.to_qkv.weight"),
        **torch_names(f"{ours}.attention.output", f"{attention}.to_out.0"),
        **torch_names("norm", "mlp_head.0"),
        **torch_names("head", "mlp_head.1"),
    }


def official(model: SmallDatasetViT) -> Names:
    ours, theirs = "transformer.blocks", "transformer.layers.{}"
    return {
        **_common(f"{theirs}.0.fn", f"{theirs}.1.fn"),
        **torch_names("patch_embedding.norm", "to_patch_embedding.merging.1"),
        **torch_names("patch_embedding.linear", "to_patch_embedding.merging.2"),
        **torch_names(f"{ours}.norm1", f"{theirs}.0.norm"),
        f"{ours}.attention.scale": Tensor(f"{theirs}.0.fn.scale"),
        **torch_names(f"{ours}.norm2", f"{theirs}.1.norm"),
        **torch_names(f"{ours}.feed_forward.expand", f"{theirs}.1.fn.net.0"),
        **torch_names(f"{ours}.feed_forward.contract", f"{theirs}.1.fn.net.3"),
    }


def vit_pytorch(model: SmallDatasetViT) -> Names:
    ours, theirs = "transformer.blocks", "transformer.layers.{}"
    heads = model.transformer.blocks.attention.scale.shape[-1]

    def encode(scale):
        # One logarithmic temperature serves all heads there.
        if isinstance(scale, np.ndarray) and not np.all(scale == scale[0]):
            raise ValueError(
                "vit_pytorch's names have one temperature for all heads of a block, "
                f"but `{ours}.attention.scale` differs; use names='official'."
            )
        return jnp.log(scale[0].astype(np.float32)).astype(scale.dtype)

    return {
        **_common(f"{theirs}.0", f"{theirs}.1"),
        **torch_names("patch_embedding.norm", "to_patch_embedding.to_patch_tokens.1"),
        **torch_names("patch_embedding.linear", "to_patch_embedding.to_patch_tokens.2"),
        **torch_names(f"{ours}.norm1", f"{theirs}.0.norm"),
        f"{ours}.attention.scale": Tensor(
            f"{theirs}.0.temperature",
            encode=encode,
            decode=lambda temperature: np.full(heads, np.exp(temperature)),
        ),
        **torch_names(f"{ours}.norm2", f"{theirs}.1.net.0"),
        **torch_names(f"{ours}.feed_forward.expand", f"{theirs}.1.net.1"),
        **torch_names(f"{ours}.feed_forward.contract", f"{theirs}.1.net.4"),
    }


def spt(model: SPT) -> Names:
    return {
        **torch_names("norm", "to_patch_tokens.1"),
        **torch_names("linear", "to_patch_tokens.2"),
    }


_FORMATS = (
    Format("official", ".safetensors", official),
    Format("vit_pytorch", ".safetensors", vit_pytorch),
)


VARIANTS = {
    "sl_vit_cifar100": Variant(
        SmallDatasetViT,
        32,
        dict(image_size=32, patch_size=4, num_classes=100, mlp_dim=384)
        | dict(dim=192, depth=9, heads=12, dim_head=16),
    ),
}

FAMILY = Family(
    model=SmallDatasetViT,
    tiny=dict(patch_size=7, dim=64, depth=4, heads=4, dim_head=16, mlp_dim=128),
    variants=VARIANTS,
    formats=_FORMATS,
    head_reads=pooled_tokens,
    parts={SPT: (Format("vit_pytorch", ".safetensors", spt),)},
    rollout=True,
)
