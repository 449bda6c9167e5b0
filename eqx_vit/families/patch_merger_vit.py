import jax.numpy as jnp

from ..models import PatchMerger, PatchMergerViT
from .family import Family
from .formats import (
    Format,
    Names,
    numbered,
    Tensor,
    torch_names,
    vit_pytorch_block,
)


def vit_pytorch(model: PatchMergerViT) -> Names:
    projection = 1 if model.patch_embedding.patch_norm is None else 2
    return {
        # Their table has a last row that is never read.
        "position_embedding": Tensor(
            "pos_embedding",
            theirs="1 n d",
            ours="n d",
            encode=lambda table: jnp.pad(table, ((0, 1), (0, 0))),
            decode=lambda table: table[:-1],
        ),
        **torch_names("patch_embedding.patch_norm", "to_patch_embedding.1"),
        **torch_names("patch_embedding.linear", f"to_patch_embedding.{projection}"),
        **torch_names("patch_embedding.token_norm", "to_patch_embedding.3"),
        **vit_pytorch_block("before.blocks"),
        "patch_merger.queries": Tensor("transformer.patch_merger.queries"),
        **torch_names("patch_merger.norm", "transformer.patch_merger.norm"),
        **numbered(vit_pytorch_block("after.blocks"), model.before.depth),
        **torch_names("norm", "transformer.norm"),
        **torch_names("head", "mlp_head.1"),
    }


def patch_merger(model: PatchMerger) -> Names:
    return {"queries": Tensor("queries"), **torch_names("norm", "norm")}


_FORMATS = (Format("vit_pytorch", ".safetensors", vit_pytorch),)


FAMILY = Family(
    model=PatchMergerViT,
    tiny=dict(
        patch_size=7,
        dim=64,
        depth=4,
        heads=4,
        dim_head=16,
        mlp_dim=128,
        patch_merge_layer=2,
        patch_merge_num_tokens=8,
    ),
    formats=_FORMATS,
    parts={PatchMerger: (Format("vit_pytorch", ".safetensors", patch_merger),)},
    relevance=False,
)
