# %% [markdown]
# # Train on your images
#
# From a folder of image files to a trained ViT, its accuracy, and a prediction. This
# page is executed whenever the documentation is built.
#
# ## The images
#
# A folder with one sub-folder per class. Yours may hold photographs; so that this page
# needs no download, we write one of 2,000 handwritten digits that come with a package.

# %%
import tempfile
from pathlib import Path

import numpy as np
from eqx_vit.data import digits, random_affine
from PIL import Image


folder = Path(tempfile.mkdtemp())
data = digits()
for i in range(2000):
    path = folder / data.classes[data.train_labels[i]] / f"{i}.png"
    path.parent.mkdir(exist_ok=True)
    pixels = (255 * data.train_images[i, ..., 0]).astype(np.uint8)
    Image.fromarray(pixels).save(path)
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# Models take floating-point images, channels last, all of one size. Pixels should have
# about zero mean and unit variance. One image in ten is held out.

# %%
size = 28
paths = sorted(folder.glob("*/*.png"))
classes = sorted({path.parent.name for path in paths})


def read(path):
    image = Image.open(path).convert("L").resize((size, size))
    return np.asarray(image, np.float32)[..., None] / 255


images = np.stack([read(path) for path in paths])
labels = np.array([classes.index(path.parent.name) for path in paths])
mean, std = images.mean(), images.std()
order = np.random.default_rng(0).permutation(len(images))
train, test = order[200:], order[:200]
print(images.shape, len(train), len(test))

# %% [markdown]
# ## The model
#
# Every argument of `ViT` but `key` has a default; here it is made small.
# `make_with_state` gives the model and its state, which is empty for a ViT and holds
# running statistics for a model with BatchNorm: so the code below is the same for every
# architecture.

# %%
import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import optax


make = eqx.nn.make_with_state(eqx_vit.ViT)
settings = dict(
    image_size=size,
    patch_size=7,
    num_classes=len(classes),
    channels=1,
    dim=64,
    depth=3,
    heads=4,
    dim_head=16,
    mlp_dim=128,
    pool="mean",
    qkv_bias=True,
)
model, state = make(**settings, key=jax.random.key(0))

# %% [markdown]
# A wrong setting is refused, and the nearest legal one named:

# %%
try:
    make(**settings | {"patch_size": 8}, key=jax.random.key(0))
except ValueError as error:
    print(error)

# %% [markdown]
# ## Training
#
# The optimiser is Optax's. `train_step` compiles at its first call. Images are turned,
# stretched and shifted a little before each step, so that 1,800 of them suffice.

# %%
epochs, batch_size = 20, 50
steps = epochs * (len(train) // batch_size)
schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, steps // 10, steps)
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05)
)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

rng = np.random.default_rng(0)
key = jax.random.key(1)
losses, accuracies = [], []
for epoch in range(epochs):
    for batch in rng.permutation(train).reshape(-1, batch_size):
        key, augment_key, step_key = jax.random.split(key, 3)
        augmented = random_affine(jnp.asarray(images[batch]), augment_key)
        model, state, opt_state, loss = eqx_vit.train_step(
            model,
            state,
            opt_state,
            (augmented - mean) / std,
            jnp.asarray(labels[batch]),
            optimizer,
            label_smoothing=0.1,
            key=step_key,
        )
    loss, accuracy = eqx_vit.evaluate(
        model,
        state,
        jnp.asarray((images[test] - mean) / std),
        jnp.asarray(labels[test]),
    )
    losses.append(loss)
    accuracies.append(accuracy)
print(f"test accuracy {accuracies[-1]:.0%}")

# %%
import matplotlib.pyplot as plt


figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(losses)
axes[0].set(xlabel="epoch", ylabel="test loss")
axes[1].plot(accuracies)
axes[1].set(xlabel="epoch", ylabel="test accuracy")
plt.show()

# %% [markdown]
# ## Weights and predictions
#
# `save_weights` writes timm's names, so timm can load the file. `load_weights` needs no
# initialised model: `eqx.filter_eval_shape` makes one without memory.

# %%
eqx_vit.save_weights(model, state, folder / "digits.safetensors")

like = eqx.filter_eval_shape(make, **settings, key=jax.random.key(0))
model, state = eqx_vit.load_weights(*like, folder / "digits.safetensors")

image = (read(paths[test[0]]) - mean) / std
logits = eqx_vit.predict(model, state, jnp.asarray(image[None]))[0]
plt.figure(figsize=(2, 2))
plt.imshow(image[..., 0], "gray")
plt.axis("off")
plt.title(f"{classes[logits.argmax()]}  {jax.nn.softmax(logits).max():.0%}")
plt.show()
