# %% [markdown]
# # All published checkpoints
#
# Three lines give a published model, its preprocessing and its logits:
#
# ```python
# model, state = eqx_vit.create_model("cait_s24_224", pretrained=True, key=key)
# image = eqx_vit.preprocess(eqx_vit.zoo["cait_s24_224"], PIL.Image.open("cat.jpg"))
# logits = eqx_vit.predict(model, image[None], state)
# ```
#
# Weights are downloaded at the first time, from the Hugging Face hub or the authors'
# address, and kept. Where only a browser can fetch them (*page* in the table), give the
# file: `create_model(name, weights="crossformer-s.pth", key=key)`. No code in a file is
# run.
#
# ## For another task
#
# What you ask for beyond the published is adapted, and said in a line each. This page
# downloads nothing when it is built, so a file of fresh weights stands for the
# published ones.

# %%
import tempfile
from pathlib import Path

import eqx_vit
import jax


key = jax.random.key(0)
fresh, state = eqx_vit.create_model("vit_tiny_patch16_224", key=key)
file = Path(tempfile.mkdtemp()) / "vit_tiny.safetensors"
eqx_vit.save_weights(fresh, file, state)

model, state = eqx_vit.create_model(
    "vit_tiny_patch16_224",
    weights=file,  # or: pretrained=True
    num_classes=10,
    image_size=(160, 224),
    channels=1,
    settings=dict(stochastic_depth=0.1),
    key=key,
)

# %% [markdown]
# `reset_head(model, num_classes, key=key)` and `resize(model, image_size)` do the same
# to any model, also one that you trained. `freeze(optimizer, model, ["*", "!head*"])`
# then trains the new head alone.
#
# ## By name
#
# A name has timm's spelling where timm has the model, else the authors'; behind the
# point stands what it was trained on. Without that it is the first of its size.

# %%
eqx_vit.list_models("levit_*")

# %%
eqx_vit.zoo["levit_256"]

# %% [markdown]
# ## The table
#
# `print(eqx_vit.zoo)` shows it in a terminal. Top-1 is the published accuracy on
# ImageNet-1k. A model of 0 classes has no head and returns features, and a licence that
# is missing is one that the authors do not state. Names lead to the papers.

# %%
eqx_vit.zoo
