import importlib.metadata as _metadata

from jaxtyping import install_import_hook as _install_import_hook


# Every signature below is checked by beartype; under `jit` only while tracing. (The
# numeric tower lets an `int` pass for a `float`, as in `dropout=0`.)
with _install_import_hook(
    "eqx_vit", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
):
    from . import layers as layers
    from .adaptation import reset_head as reset_head, resize as resize
    from .checkpoints import (
        create_model as create_model,
        list_models as list_models,
        zoo as zoo,
    )
    from .distilling import Distillation as Distillation
    from .fusion import fuse_batch_norm as fuse_batch_norm
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
    from .optimizing import decay_mask as decay_mask, freeze as freeze
    from .preprocessing import preprocess as preprocess
    from .rematerialising import rematerialise as rematerialise
    from .sharding import (
        bytes_per_step as bytes_per_step,
        make_mesh as make_mesh,
        shard as shard,
        shard_batch as shard_batch,
    )
    from .training import (
        evaluate as evaluate,
        predict as predict,
        train_step as train_step,
    )
    from .weights import load_weights as load_weights, save_weights as save_weights


try:
    __version__ = _metadata.version("eqx_vit")
except _metadata.PackageNotFoundError:
    __version__ = "0"
