"""The configurations of the ViT and of its descendants in transformers."""

from typing import Any

from ..models import ViT
from .configs import (
    activation_named,
    Config,
    Kind,
    name_of_activation,
    num_labels,
    side,
    their_size,
)
from .vit_in_transformers import (
    CLIP,
    DINOV2,
    REGISTERS,
    SIGLIP,
    SIGLIP2,
    VIT,
    vit_kind,
)


def _sizes(config: Config, patch_size: int, norm_eps: float, act: str) -> dict:
    """The arguments that all have, and transformers' defaults where they differ."""
    dim, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    return dict(
        image_size=side(config.get("image_size", 224)),
        patch_size=side(config.get("patch_size", patch_size)),
        channels=config.get("num_channels", 3),
        num_classes=num_labels(config),
        dim=dim,
        depth=config.get("num_hidden_layers", 12),
        heads=heads,
        dim_head=dim // heads,
        mlp_dim=config.get("intermediate_size", 4 * dim),
        qkv_bias=config.get("qkv_bias", True),
        norm_eps=config.get("layer_norm_eps", norm_eps),
        activation=activation_named(config.get("hidden_act", act)),
    )


def _is(config: Config, ending: str) -> bool:
    return any(name.endswith(ending) for name in config.get("architectures") or [])


def _read_vit(config: Config) -> dict[str, Any]:
    arguments = _sizes(config, 16, 1e-12, "gelu")
    if config.get("model_type") == "deit":
        if _is(config, "WithTeacher"):
            return arguments | dict(distilled=True)
        return arguments | dict(register_tokens=1)
    if config.get("model_type") == "ijepa":
        return arguments | dict(class_token=False, pool="mean")
    return arguments


def _read_dinov2(config: Config) -> dict[str, Any]:
    has_registers = config.get("model_type") == "dinov2_with_registers"
    arguments = _sizes(config, 16 if has_registers else 14, 1e-6, "gelu")
    width = int(arguments["dim"] * config.get("mlp_ratio", 4))
    if config.get("use_swiglu_ffn"):
        arguments["gated"] = True
        width = (int(width * 2 / 3) + 7) // 8 * 8
    arguments |= dict(mlp_dim=width, layer_scale=config.get("layerscale_value", 1.0))
    if arguments["num_classes"]:
        arguments["pool"] = "cls_mean"
    if has_registers:
        registers = config.get("num_register_tokens", 4)
        arguments |= dict(register_tokens=registers, embed_prefix=False)
    return arguments


def _tower_config(config: Config) -> dict[str, Any]:
    """The part about images of a model that has one about texts too."""
    shared = ("architectures", "id2label", "num_labels")
    outer = {name: config[name] for name in shared if name in config}
    # (Where there are two, transformers takes the older one, with its defaults.)
    tower = config.get("vision_config_dict") or config.get("vision_config", config)
    return dict(tower) | outer


def _read_clip(config: Config) -> dict[str, Any]:
    tower = _tower_config(config)
    arguments = _sizes(tower, 32, 1e-5, "quick_gelu") | dict(pre_norm=True)
    arguments["mlp_dim"] = tower.get("intermediate_size", 3072)
    if arguments["num_classes"]:
        return arguments | dict(pool="mean", final_norm=False)
    if _is(config, "WithProjection") or "vision_config" in config:
        size = config.get("projection_dim", 512)
        arguments |= dict(num_classes=size, head_bias=False)
    return arguments


def _read_siglip(config: Config) -> dict[str, Any]:
    tower = _tower_config(config)
    arguments = _sizes(tower, 16, 1e-6, "gelu_pytorch_tanh") | dict(class_token=False)
    arguments["mlp_dim"] = tower.get("intermediate_size", 3072)
    has_pool = not arguments["num_classes"] and tower.get("vision_use_head", True)
    arguments["pool"] = "map" if has_pool else "mean"
    if config.get("model_type", "").startswith("siglip2"):
        grid = int(tower.get("num_patches", 256) ** 0.5)
        arguments["image_size"] = grid * tower.get("patch_size", 16)
    return arguments


def _written(model: ViT, model_type: str) -> dict[str, Any]:
    """The reverse of `_sizes`."""
    block = model.transformer.blocks
    config: dict[str, Any] = dict(
        model_type=model_type,
        hidden_size=model.position_embedding.shape[1],
        num_hidden_layers=model.transformer.depth,
        num_attention_heads=block.attention.heads,
        image_size=their_size(model.image_size),
        patch_size=their_size(model.patch_embedding.patch_size),
        num_channels=model.channels,
        layer_norm_eps=block.norm1.eps,
    )
    if hasattr(block.feed_forward, "activation"):
        config["hidden_act"] = name_of_activation(block.feed_forward.activation)
        config["intermediate_size"] = block.feed_forward.expand.weight.shape[1]
    return config


def _named(model: ViT, model_type: str, architecture: str) -> dict[str, Any]:
    """A config with the name of a class whose bias of queries is an option."""
    bias = model.transformer.blocks.attention.qkv.bias
    config = _written(model, model_type)
    return config | dict(architectures=[architecture], qkv_bias=bias is not None)


def _write_vit(model: ViT) -> dict[str, Any]:
    kind = vit_kind(model)
    name = {"vit": "ViT", "deit": "DeiT", "ijepa": "IJepa"}[kind]
    ending = "Model" if model.head is None else "ForImageClassification"
    if model.distillation_token is not None:
        if model.head is None:
            raise ValueError("transformers' DeiT without heads has no distillation")
        ending += "WithTeacher"
    return _named(model, kind, f"{name}{ending}")


def _write_dinov2(model: ViT) -> dict[str, Any]:
    registers = model.register_tokens
    kind, name = "dinov2", "Dinov2"
    if registers is not None:
        kind, name = "dinov2_with_registers", "Dinov2WithRegisters"
    ending = "Model" if model.head is None else "ForImageClassification"
    config = _named(model, kind, f"{name}{ending}")
    dim = config["hidden_size"]
    width = config.pop("intermediate_size", None)
    if width is None:
        hidden = model.transformer.blocks.feed_forward.contract.weight.shape[2]
        gated = lambda ratio: (int(dim * ratio * 2 / 3) + 7) // 8 * 8
        ratio = next((r for r in range(1, 17) if gated(r) == hidden), None)
        config["use_swiglu_ffn"] = True
    else:
        ratio = width // dim if width % dim == 0 else None
    if ratio is None:
        raise ValueError(
            "transformers' DINOv2 needs feed-forward networks whose width is a whole "
            "multiple of `dim`"
        )
    config["mlp_ratio"] = ratio
    if registers is not None:
        config["num_register_tokens"] = registers.shape[0]
    return config


def _write_clip(model: ViT) -> dict[str, Any]:
    _check_square(model)
    if model.head is not None and model.head.bias is not None:
        return dict(
            model_type="clip",
            architectures=["CLIPForImageClassification"],
            vision_config=_written(model, "clip_vision_model"),
        )
    config = _written(model, "clip_vision_model")
    if model.head is None:
        return config | dict(architectures=["CLIPVisionModel"])
    return config | dict(
        architectures=["CLIPVisionModelWithProjection"],
        projection_dim=model.head.weight.shape[0],
    )


def _check_square(model: ViT) -> None:
    sizes = (model.image_size, model.patch_embedding.patch_size)
    if any(height != width for height, width in sizes):
        raise ValueError("its images and patches are not square, as there")


def _write_siglip(model: ViT) -> dict[str, Any]:
    _check_square(model)
    vision = _written(model, "siglip_vision_model")
    if model.head is None:
        return vision | dict(architectures=["SiglipVisionModel"])
    return dict(
        model_type="siglip",
        architectures=["SiglipForImageClassification"],
        vision_config=vision | dict(vision_use_head=False),
    )


def _not_written(model: ViT) -> dict[str, Any]:
    raise ValueError("it is written as a SigLIP of one image size")


KINDS = (
    Kind(
        model_types=("vit", "deit", "vit_mae", "vit_msn", "ijepa"),
        format=VIT,
        read=_read_vit,
        write=_write_vit,
    ),
    Kind(
        model_types=("dinov2",),
        format=DINOV2,
        read=_read_dinov2,
        write=_write_dinov2,
        any_size=True,
    ),
    Kind(
        model_types=("dinov2_with_registers",),
        format=REGISTERS,
        read=_read_dinov2,
        write=_write_dinov2,
        any_size=True,
        antialias=True,
    ),
    Kind(
        model_types=("clip", "clip_vision_model"),
        format=CLIP,
        read=_read_clip,
        write=_write_clip,
    ),
    Kind(
        model_types=("siglip", "siglip_vision_model"),
        format=SIGLIP,
        read=_read_siglip,
        write=_write_siglip,
    ),
    Kind(
        model_types=("siglip2", "siglip2_vision_model"),
        format=SIGLIP2,
        read=_read_siglip,
        write=_not_written,
    ),
)
