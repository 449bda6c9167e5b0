from . import (
    data as data,
    deploy as deploy,
    families as families,
    interpret as interpret,
    layers as layers,
    models as models,
    pretrained as pretrained,
    training as training,
)
from .deploy.batch_norm import fuse_batch_norm as fuse_batch_norm
from .deploy.export import export as export
from .families import Family as Family, register as register
from .interpret.attention import (
    attention_maps as attention_maps,
    AttentionMap as AttentionMap,
    class_attention as class_attention,
    Feature as Feature,
    features as features,
    relevance as relevance,
    rollout as rollout,
)
from .interpret.capture import capture as capture, named_values as named_values
from .interpret.flops import count_flops as count_flops
from .interpret.summary import summary as summary
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
from .pretrained.adapt import reset_head as reset_head, resize as resize
from .pretrained.create import create_model as create_model
from .pretrained.preprocess import preprocess as preprocess
from .pretrained.weights import (
    load_weights as load_weights,
    save_weights as save_weights,
)
from .pretrained.zoo import list_models as list_models, zoo as zoo
from .training.distillation import Distillation as Distillation
from .training.flat_step import FlatStep as FlatStep
from .training.memory import rematerialise as rematerialise, unroll as unroll
from .training.mixup import mix as mix
from .training.optimizer import (
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
from .training.recipe import Recipe as Recipe, recipe as recipe, recipes as recipes
from .training.sharding import (
    bytes_per_step as bytes_per_step,
    make_mesh as make_mesh,
    shard as shard,
    shard_batch as shard_batch,
)
from .training.step import (
    evaluate as evaluate,
    predict as predict,
    train_step as train_step,
)

__version__: str
