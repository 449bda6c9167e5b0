import importlib.metadata as _metadata

from jaxtyping import install_import_hook as _install_import_hook


# Every signature below is checked by beartype; under `jit` only while tracing. (The
# numeric tower lets an `int` pass for a `float`, as in `dropout=0`.)
with _install_import_hook(
    "eqx_vit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
):
    from . import layers as layers
    from .adaptation import reset_head as reset_head, resize as resize
    from .capturing import capture as capture, named_values as named_values
    from .checkpoints import (
        create_model as create_model,
        list_models as list_models,
        zoo as zoo,
    )
    from .distilling import Distillation as Distillation
    from .explaining import (
        attention_maps as attention_maps,
        AttentionMap as AttentionMap,
        class_attention as class_attention,
        Feature as Feature,
        features as features,
        relevance as relevance,
        rollout as rollout,
    )
    from .exporting import export as export
    from .flops import count_flops as count_flops
    from .fusion import fuse_batch_norm as fuse_batch_norm
    from .mixing import mix as mix
    from .models import (
        CaiT as CaiT,
        CrossFormer as CrossFormer,
        CrossViT as CrossViT,
        CvT as CvT,
        DeepViT as DeepViT,
        grad_cat as grad_cat,
        LeViT as LeViT,
        NesT as NesT,
        ParallelViT as ParallelViT,
        PatchMerger as PatchMerger,
        PatchMergerViT as PatchMergerViT,
        PiT as PiT,
        RegionViT as RegionViT,
        ScalableViT as ScalableViT,
        SimpleViT as SimpleViT,
        SmallDatasetViT as SmallDatasetViT,
        SPT as SPT,
        T2TViT as T2TViT,
        TwinsSVT as TwinsSVT,
        ViT as ViT,
    )
    from .optimizing import (
        averaged as averaged,
        decay_mask as decay_mask,
        freeze as freeze,
        layer_decay as layer_decay,
        layer_numbers as layer_numbers,
        moving_average as moving_average,
        muon_dimensions as muon_dimensions,
        parameter_groups as parameter_groups,
        ParameterGroup as ParameterGroup,
        per_layer as per_layer,
        watch_gradient as watch_gradient,
    )
    from .preprocessing import preprocess as preprocess
    from .recipes import Recipe as Recipe, recipe as recipe, recipes as recipes
    from .rematerialising import rematerialise as rematerialise
    from .sharding import (
        bytes_per_step as bytes_per_step,
        make_mesh as make_mesh,
        shard as shard,
        shard_batch as shard_batch,
    )
    from .stepping import FlatStep as FlatStep
    from .summary import summary as summary
    from .training import (
        evaluate as evaluate,
        predict as predict,
        train_step as train_step,
    )
    from .unrolling import unroll as unroll
    from .weights import load_weights as load_weights, save_weights as save_weights


try:
    __version__ = _metadata.version("eqx_vit")
except _metadata.PackageNotFoundError:
    __version__ = "0"
