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
from .deploy.export_onnx import export_onnx as export_onnx
from .families import Family as Family, register as register
from .interpret.attention import (
    attention_maps as attention_maps,
    class_attention as class_attention,
    embed as embed,
    Embedding as Embedding,
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
    DINOv3 as DINOv3,
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
from .pretrained.create import create_model as create_model, record as record
from .pretrained.peft import load_adapter as load_adapter, save_adapter as save_adapter
from .pretrained.preprocess import preprocess as preprocess
from .pretrained.publish import (
    push_to_hub as push_to_hub,
    save_pretrained as save_pretrained,
)
from .pretrained.weights import (
    load_weights as load_weights,
    save_weights as save_weights,
)
from .pretrained.zoo import list_models as list_models, zoo as zoo
from .training.adapters import lora as lora, merge_lora as merge_lora
from .training.distillation import Distillation as Distillation
from .training.losses import Loss as Loss
from .training.mixup import mixup_cutmix as mixup_cutmix
from .training.optimizer import (
    averaged_model as averaged_model,
    decay_mask as decay_mask,
    freeze as freeze,
    layer_decay as layer_decay,
    moving_average as moving_average,
)
from .training.recipe import Recipe as Recipe, recipe as recipe, recipes as recipes
from .training.sharding import (
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
