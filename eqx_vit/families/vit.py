import re

import numpy as np

from ..models import SimpleViT, ViT
from ..pretrained.names import (
    flax_attention,
    flax_cross_attention,
    flax_dense,
    flax_norm,
    Format,
    Names,
    Tensor,
    Tensors,
    token,
    torch_block,
    torch_names,
    torch_patches,
    vit_pytorch_block,
)


Model = ViT | SimpleViT


def timm(model: Model) -> Names:
    block, theirs = "transformer.blocks", "blocks.{}"
    norm = "fc_norm" if getattr(model, "norm_after_pool", False) else "norm"
    return {
        "class_token": token("cls_token"),
        "distillation_token": token("dist_token"),
        "register_tokens": token("reg_token"),
        "position_embedding": token("pos_embed"),
        **torch_patches(
            "patch_embedding.linear",
            "patch_embed.proj",
            model.patch_embedding.patch_size,
        ),
        **torch_names("pre_norm", "norm_pre"),
        **torch_block(block, theirs),
        f"{block}.layer_scale1.weight": Tensor(f"{theirs}.ls1.gamma"),
        f"{block}.layer_scale2.weight": Tensor(f"{theirs}.ls2.gamma"),
        "attention_pool.probe": token("attn_pool.latent"),
        **torch_names("attention_pool.attention.query", "attn_pool.q"),
        **torch_names("attention_pool.attention.key_value", "attn_pool.kv"),
        **torch_names("attention_pool.attention.output", "attn_pool.proj"),
        **torch_names("attention_pool.norm", "attn_pool.norm"),
        **torch_names("attention_pool.feed_forward.expand", "attn_pool.mlp.fc1"),
        **torch_names("attention_pool.feed_forward.contract", "attn_pool.mlp.fc2"),
        **torch_names("norm", norm),
        **torch_names("pre_logits", "pre_logits.fc"),
        **torch_names("head", "head"),
        **torch_names("distillation_head", "head_dist"),
    }


def vit_pytorch(model: Model) -> Names:
    # The steps of an `nn.Sequential` count: without its two normalisations the
    # projection comes first.
    projection = 1 if model.patch_embedding.patch_norm is None else 2
    if isinstance(model, SimpleViT):
        block = vit_pytorch_block("transformer.blocks", "to_out", "net.3")
        head = "linear_head"
    else:
        block, head = vit_pytorch_block("transformer.blocks"), "mlp_head"
    return {
        "class_token": Tensor("cls_token"),
        "position_embedding": Tensor("pos_embedding"),
        **torch_names("patch_embedding.patch_norm", "to_patch_embedding.1"),
        **torch_names("patch_embedding.linear", f"to_patch_embedding.{projection}"),
        **torch_names("patch_embedding.token_norm", "to_patch_embedding.3"),
        **block,
        **torch_names("norm", "transformer.norm"),
        **torch_names("head", head),
    }


def _flax(model: Model, attention: int, norm: int, mlp: int) -> Names:
    # The numbers are those that Flax gave the children of a block.
    block, theirs = "transformer.blocks", "Transformer/encoderblock_{}"
    heads = model.transformer.blocks.attention.heads
    height, width = model.patch_embedding.patch_size
    pool = "MAPHead_0"
    return {
        "class_token": token("cls"),
        "patch_embedding.linear.weight": Tensor(
            "embedding/kernel",
            theirs="p q c o",
            ours="o (p q c)",
            sizes={"p": height, "q": width},
        ),
        "patch_embedding.linear.bias": Tensor("embedding/bias"),
        **flax_norm(f"{block}.norm1", f"{theirs}/LayerNorm_0"),
        **flax_attention(
            f"{block}.attention",
            f"{theirs}/MultiHeadDotProductAttention_{attention}",
            heads,
        ),
        **flax_norm(f"{block}.norm2", f"{theirs}/LayerNorm_{norm}"),
        **flax_dense(
            f"{block}.feed_forward.expand", f"{theirs}/MlpBlock_{mlp}/Dense_0"
        ),
        **flax_dense(
            f"{block}.feed_forward.contract", f"{theirs}/MlpBlock_{mlp}/Dense_1"
        ),
        "attention_pool.probe": token(f"{pool}/probe"),
        **flax_cross_attention(
            "attention_pool.attention", f"{pool}/MultiHeadDotProductAttention_0", heads
        ),
        **flax_norm("attention_pool.norm", f"{pool}/LayerNorm_0"),
        **flax_dense(
            "attention_pool.feed_forward.expand", f"{pool}/MlpBlock_0/Dense_0"
        ),
        **flax_dense(
            "attention_pool.feed_forward.contract", f"{pool}/MlpBlock_0/Dense_1"
        ),
        **flax_norm("norm", "Transformer/encoder_norm"),
        **flax_dense("pre_logits", "pre_logits"),
        **flax_dense("head", "head"),
    }


_BIG_VISION_POSITIONS = "pos_embedding"
_VIT_JAX_POSITIONS = "Transformer/posembed_input/pos_embedding"


def big_vision(model: Model) -> Names:
    positions = token(_BIG_VISION_POSITIONS)
    return _flax(model, 0, 1, 0) | {"position_embedding": positions}


def vision_transformer(model: Model) -> Names:
    positions = token(_VIT_JAX_POSITIONS)
    return _flax(model, 1, 2, 3) | {"position_embedding": positions}


def _plain(tensors: Tensors) -> Tensors:
    """Without the prefixes of training states, and with scanned blocks taken apart."""
    for prefix in ("opt/target/", "params/img/", "params/"):
        if f"{prefix}embedding/kernel" in tensors:
            start = len(prefix)
            tensors = {n[start:]: t for n, t in tensors.items() if n.startswith(prefix)}
            break
    plain = {}
    for name, tensor in tensors.items():
        head, scanned, tail = name.partition("Transformer/encoderblock/")
        if scanned:
            for i, layer in enumerate(tensor):
                plain[f"{head}Transformer/encoderblock_{i}/{tail}"] = layer
        else:
            plain[name] = tensor
    return plain


def _old_numbers(tensors: Tensors) -> Tensors:
    """With the children of a block counted together, as Flax did before Linen.

    The files of the paper count so; whatever the present source writes counts each
    kind of child from 0.
    """
    tensors = _plain(tensors)
    new = r"(Transformer/encoderblock_\d+/)"
    if any(re.match(f"{new}MlpBlock_0/", name) for name in tensors):
        swaps = {
            "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
            "LayerNorm_1": "LayerNorm_2",
            "MlpBlock_0": "MlpBlock_3",
        }
        pattern = re.compile(f"{new}({'|'.join(swaps)})/")
        tensors = {
            pattern.sub(lambda m: f"{m[1]}{swaps[m[2]]}/", name): tensor
            for name, tensor in tensors.items()
        }
    return tensors


def _only_patches(model: ViT) -> str | None:
    if model.embed_prefix and model.class_token is not None:
        return (
            "big_vision's files have no position embedding for the class token; "
            "build the model with `embed_prefix=False`"
        )


def _no_class_token(model: ViT) -> Tensors:
    # vit-pytorch keeps a class token of zero rows where others have none.
    if model.class_token is not None:
        return {}
    return {"cls_token": np.zeros((0, model.position_embedding.shape[1]), np.float32)}


def _timm_layer_scale(tensors: Tensors) -> Tensors:
    """Without the spelling of the DeiT III authors."""
    gamma = re.compile(r"\.gamma_([12])$")
    return {gamma.sub(r".ls\1.gamma", name): t for name, t in tensors.items()}


# What some files hold beyond a model: the token for masked patches of a training, and a
# layer before the head of another task. timm leaves them out too.
_BEYOND = ("mask_token", "pre_logits.fc.weight", "pre_logits.fc.bias")

VIT_FORMATS = (
    Format(
        "timm",
        ".safetensors",
        timm,
        canonical=_timm_layer_scale,
        ignored=("num_batches_tracked", *_BEYOND),
    ),
    Format(
        "vit_pytorch",
        ".safetensors",
        vit_pytorch,
        constants=_no_class_token,
    ),
    Format("vision_transformer", ".npz", vision_transformer, canonical=_old_numbers),
    Format("big_vision", ".npz", big_vision, canonical=_plain, unfit=_only_patches),
)


def _constant(name: str):
    # What SimpleViT computes, other implementations of the ViT keep as a parameter.
    return lambda model: {name: model.position_embedding[None]}


SIMPLE_VIT_FORMATS = (
    Format("big_vision", ".npz", big_vision, canonical=_plain),
    Format("timm", ".safetensors", timm, _constant("pos_embed")),
    Format("vit_pytorch", ".safetensors", vit_pytorch),
    Format(
        "vision_transformer",
        ".npz",
        vision_transformer,
        _constant(_VIT_JAX_POSITIONS),
        canonical=_old_numbers,
    ),
)
