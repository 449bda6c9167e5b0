"""Training: one step for all models, optimisers, recipes, memory, many devices."""

from .adapters import (
    lora as lora,
    lora_patterns as lora_patterns,
    merge_lora as merge_lora,
    with_lora_keys as with_lora_keys,
)
from .distillation import Distillation as Distillation
from .flat_step import FlatStep as FlatStep
from .losses import balanced_weights as balanced_weights, Loss as Loss
from .memory import rematerialise as rematerialise, unroll as unroll
from .mixup import mixup_cutmix as mixup_cutmix
from .normalisation import normalise as normalise
from .optimizer import (
    adaptive_clip as adaptive_clip,
    averaged_model as averaged_model,
    decay_mask as decay_mask,
    freeze as freeze,
    keep_gradient_norm as keep_gradient_norm,
    layer_decay as layer_decay,
    layer_numbers as layer_numbers,
    moving_average as moving_average,
    muon_dimensions as muon_dimensions,
    parameter_groups as parameter_groups,
    ParameterGroup as ParameterGroup,
    per_layer as per_layer,
)
from .recipe import Recipe as Recipe, recipes as recipes
from .sharding import (
    bytes_per_step as bytes_per_step,
    make_mesh as make_mesh,
    shard as shard,
    shard_batch as shard_batch,
)
from .step import evaluate as evaluate, predict as predict, train_step as train_step
