from ..models import ParallelViT
from .family import Family, pooled_tokens, Variant
from .formats import Format, Names, Tensor, token, torch_names, torch_patches
from .vit import BASE, SMALL


def timm(model: ParallelViT) -> Names:
    attention, mlp = "transformer.blocks.attentions", "transformer.blocks.feed_forwards"
    attns, ffns = "blocks.{}.attns.{}", "blocks.{}.ffns.{}"
    return {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_names(f"{attention}.norm", f"{attns}.norm"),
        **torch_names(f"{attention}.layer.qkv", f"{attns}.attn.qkv"),
        **torch_names(f"{attention}.layer.output", f"{attns}.attn.proj"),
        f"{attention}.layer_scale.weight": Tensor(f"{attns}.ls.gamma"),
        **torch_names(f"{mlp}.norm", f"{ffns}.norm"),
        **torch_names(f"{mlp}.layer.expand", f"{ffns}.mlp.fc1"),
        **torch_names(f"{mlp}.layer.contract", f"{ffns}.mlp.fc2"),
        f"{mlp}.layer_scale.weight": Tensor(f"{ffns}.ls.gamma"),
        **torch_names("norm", "norm"),
        **torch_names("head", "head"),
    }


def vit_pytorch(model: ParallelViT) -> Names:
    attention, mlp = "transformer.blocks.attentions", "transformer.blocks.feed_forwards"
    attns, ffns = "transformer.layers.{}.0.fns.{}", "transformer.layers.{}.1.fns.{}"
    names = {
        "class_token": token("cls_token"),
        "position_embedding": token("pos_embedding"),
        **torch_names("patch_embedding.linear", "to_patch_embedding.1"),
        **torch_names(f"{attention}.norm", f"{attns}.norm"),
        **torch_names(f"{attention}.layer.qkv", f"{attns}.to_qkv"),
        **torch_names(f"{attention}.layer.output", f"{attns}.to_out.0"),
        **torch_names(f"{mlp}.norm", f"{ffns}.net.0"),
        **torch_names(f"{mlp}.layer.expand", f"{ffns}.net.1"),
        **torch_names(f"{mlp}.layer.contract", f"{ffns}.net.4"),
        **torch_names("norm", "mlp_head.0"),
        **torch_names("head", "mlp_head.1"),
    }
    # Queries, keys and values have no bias there.
    del names[f"{attention}.layer.qkv.bias"]
    return names


def _pools_first(model: ParallelViT) -> str | None:
    if model.pool == "mean":
        return "vit-pytorch's parallel ViT normalises after its mean"


_FORMATS = (
    Format("timm", ".safetensors", timm),
    Format("vit_pytorch", ".safetensors", vit_pytorch, unfit=_pools_first),
)


def _variant(size: dict, branches: int) -> Variant:
    settings = dict(image_size=224, patch_size=16, qkv_bias=True, layer_scale=1e-5)
    settings |= size | dict(num_parallel_branches=branches)
    return Variant(ParallelViT, 224, settings)


VARIANTS = {
    "vit_small_patch16_18x2_224": _variant(SMALL | dict(depth=18), 2),
    "vit_base_patch16_18x2_224": _variant(BASE | dict(depth=18), 2),
}

FAMILY = Family(
    model=ParallelViT,
    tiny=dict(patch_size=7, dim=64, depth=2, heads=4, dim_head=16, mlp_dim=128),
    variants=VARIANTS,
    formats=_FORMATS,
    head_reads=pooled_tokens,
    rollout=True,
)
