import os
import subprocess
import sys

import eqx_vit
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import pytest
from eqx_vit.layers import Attention, Linear


def test_signatures_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError):
        Linear(3, 4, key=jr.key(0))(jnp.zeros((2, 5)))
    with pytest.raises(jaxtyping.TypeCheckError):
        Attention(8, 2, 4, key=jr.key(0))(jnp.zeros((1, 2, 7)))
    with pytest.raises(jaxtyping.TypeCheckError):
        eqx_vit.ViT(image_size="256", key=jr.key(0))  # pyright: ignore


def test_checking_can_be_turned_off():
    code = (
        "import eqx_vit, jax, jax.numpy as jnp\n"
        "from eqx_vit.layers import LayerNorm\n"
        "print(LayerNorm(1)(jnp.zeros((2, 5))).shape)\n"
    )
    for disable, wanted in (("0", 1), ("1", 0)):
        environment = os.environ | {"JAXTYPING_DISABLE": disable}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert run.returncode == wanted, run.stderr


BOTH = [eqx_vit.ViT, eqx_vit.SimpleViT]
PATCHES = [
    *BOTH,
    eqx_vit.ParallelViT,
    eqx_vit.PatchMergerViT,
    eqx_vit.SmallDatasetViT,
    eqx_vit.DeepViT,
    eqx_vit.CaiT,
]
ALL = [*PATCHES, eqx_vit.CrossViT, eqx_vit.T2TViT]
PYRAMIDS = [
    eqx_vit.CvT,
    eqx_vit.LeViT,
    eqx_vit.CrossFormer,
    eqx_vit.NesT,
    eqx_vit.RegionViT,
    eqx_vit.ScalableViT,
    eqx_vit.TwinsSVT,
]
THREE_CONVS = {"tokenize_local_3_conv": True}


@pytest.mark.parametrize(
    "cls, setting, nearest",
    [
        *((cls, {"image_size": 250}, "256") for cls in PATCHES),
        *((cls, {"image_size": (256, 100)}, r"\(256, 96\)") for cls in PATCHES),
        *((cls, {"image_size": 7}, "") for cls in PATCHES),
        *((cls, {"patch_size": 0}, "1") for cls in PATCHES),
        *((cls, {"depth": 0}, "") for cls in ALL),
        *((cls, {"heads": 0}, "1") for cls in PATCHES),
        *((cls, {"channels": -1}, "1") for cls in ALL),
        *((cls, {"num_classes": -1}, "0") for cls in ALL),
        *((cls, {"dropout": 1.0}, "0.9") for cls in ALL if "Simple" not in str(cls)),
        *((cls, {"stochastic_depth": 1.0}, "0.9") for cls in BOTH),
        (eqx_vit.ViT, {"dropout": -0.1}, "0.0"),
        (eqx_vit.ViT, {"emb_dropout": 1.5}, "0.9"),
        (eqx_vit.ViT, {"pool": "class"}, "'cls'"),
        (eqx_vit.ViT, {"pool": "max"}, "'map'"),
        (eqx_vit.ViT, {"class_token": False}, "class_token=True"),
        (eqx_vit.ViT, {"pool": "mean", "distilled": True}, "pool='cls'"),
        (eqx_vit.PatchMergerViT, {"patch_merge_layer": 12}, "11"),
        (eqx_vit.PatchMergerViT, {"patch_merge_layer": 0}, "1"),
        (eqx_vit.ParallelViT, {"num_parallel_branches": 0}, "1"),
        (eqx_vit.DeepViT, {"reattention": (True,)}, "depth=6"),
        (eqx_vit.DeepViT, {"residual_scale": 0.0}, "1.0"),
        (eqx_vit.DeepViT, {"patch_size": 1, "conv_stem": True}, "2"),
        (eqx_vit.CaiT, {"cls_depth": 0}, "1"),
        (eqx_vit.CaiT, {"layer_dropout": 1.0}, "0.9"),
        (eqx_vit.CrossViT, {"image_size": 100}, "128"),
        (eqx_vit.CrossViT, {"lg_image_size": 100}, "128"),
        (eqx_vit.CrossViT, {"multi_conv": True}, "16"),
        (eqx_vit.T2TViT, {"t2t_layers": ((7,),)}, r"\(3, 2\)"),
        (eqx_vit.T2TViT, {"t2t_layers": ()}, r"\(7, 4\)"),
        (eqx_vit.T2TViT, {"image_size": 2}, "3"),
        (eqx_vit.PiT, {"heads": (2, 4)}, "3 stages"),
        (eqx_vit.PiT, {"mlp_dim": 0}, "1"),
        (eqx_vit.PiT, {"image_size": 7}, "14"),
        *((cls, {"channels": 0}, "1") for cls in PYRAMIDS),
        *((cls, {"num_classes": -1}, "0") for cls in PYRAMIDS),
        (eqx_vit.CvT, {"s1_emb_kernel": 2}, "4"),
        (eqx_vit.CvT, {"s2_proj_kernel": 4}, "5"),
        (eqx_vit.CvT, {"s3_emb_dim": 382}, "384"),
        (eqx_vit.LeViT, {"image_size": 250}, "256"),
        (eqx_vit.LeViT, {"dim": (256, 384)}, "3 stages"),
        (eqx_vit.LeViT, {"depth": 0}, "1"),
        (eqx_vit.CrossFormer, {"depth": (1, 2)}, "4 stages"),
        (eqx_vit.CrossFormer, {"cross_embed_kernel_sizes": ((4,),)}, "4 stages"),
        (eqx_vit.CrossFormer, {"cross_embed_kernel_sizes": ((3,),) * 4}, "4"),
        (eqx_vit.NesT, {"image_size": 220}, "224"),
        (eqx_vit.NesT, {"dim": 97}, "96"),
        (eqx_vit.NesT, {"block_repeats": (2, 2)}, "3 stages"),
        (eqx_vit.RegionViT, {"local_patch_size": 8, **THREE_CONVS}, "4"),
        (eqx_vit.RegionViT, {"attn_dropout": 1.0}, "0.9"),
        (eqx_vit.ScalableViT, {"heads": (2, 4)}, "4 stages"),
        (eqx_vit.ScalableViT, {"head_dim": 0}, "1"),
        (eqx_vit.TwinsSVT, {"s1_emb_dim": 65}, "64"),
        (eqx_vit.TwinsSVT, {"peg_kernel_size": 2}, "3"),
        (eqx_vit.TwinsSVT, {"s3_depth": 0}, "1"),
        (eqx_vit.SimpleViT, {"dim": 70}, "72"),
        (eqx_vit.SimpleViT, {"dim": 4}, "8"),
    ],
)
def test_wrong_settings(cls, setting, nearest):
    (name, value), *_ = setting.items()
    with pytest.raises(ValueError, match=rf"`{name}=.*{nearest}") as error:
        cls(**setting, key=jr.key(0))
    assert repr(value) in str(error.value)
