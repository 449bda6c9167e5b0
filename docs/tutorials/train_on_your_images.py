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
from eqx_vit import data
from PIL import Image


folder = Path(tempfile.mkdtemp())
digits = data.digits()
for i in range(2000):
    path = folder / digits.classes[digits.train_labels[i]] / f"{i}.png"
    path.parent.mkdir(exist_ok=True)
    pixels = (255 * digits.train_images[i, ..., 0]).astype(np.uint8)
    Image.fromarray(pixels).save(path)
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# `open_data` reads such a folder, or a CSV file, or a data set of Hugging Face, and
# holds one image in ten of every class out. Models take floating-point images, channels
# last, all of one size, with pixels of about zero mean and unit variance:
# `Augmentation` makes those for training, `Centre` for tests. (For photographs leave
# out what is switched off here: its defaults are the recipe of DeiT.)

# %%
train, test = data.open_data(folder)
mean, std = data.pixel_statistics(train, channels=1)
size = (28, 28)
augmentation = data.Augmentation(
    size, mean, std, scale=(1, 1), flip=0, rand_augment=0, erasing=0, jitter=12
)
centre = data.Centre(size, mean, std)
print(len(train), len(test), train.classes)

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


make = eqx.nn.make_with_state(eqx_vit.ViT)
settings = dict(
    image_size=size,
    patch_size=7,
    num_classes=len(train.classes),
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
# The optimiser is Optax's, or that of a recipe: `recipe()` is for small images, and
# `recipe("deit_small")`, `"cait"`, `"levit"`, `"finetune"` are the papers'. Batches are
# loaded by Grain beside the training, in an order that depends on the seed alone.
# `train_step` compiles at its first call.

# %%
recipe = eqx_vit.recipe(epochs=20, batch_size=50)
steps = len(train) // recipe.batch_size
optimizer = recipe.optimizer(model, steps)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
batches = data.training_batches(train, augmentation, recipe.batch_size, seed=0)

# %% [markdown]
# Your loop is five lines; what else it should do is yours to add. (`eqx-vit train` is
# such a loop, with checkpoints and a progress bar.)


# %%
def accuracy(model):
    right, count = 0.0, 0.0
    for batch in data.evaluation_batches(test, centre, 50):
        images, labels, weights = (
            jnp.asarray(batch[name]) for name in ("image", "label", "weight")
        )
        _, share = eqx_vit.evaluate(model, images, labels, state, weights=weights)
        right, count = right + share * weights.sum(), count + weights.sum()
    return float(right / count)


losses, accuracies = [], []
for step, key in enumerate(jax.random.split(jax.random.key(1), recipe.epochs * steps)):
    batch = next(batches)
    images, labels = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
    model, state, opt_state, loss = eqx_vit.train_step(
        model, state, opt_state, images, labels, optimizer, key=key
    )
    losses.append(loss)
    if (step + 1) % steps == 0:
        accuracies.append(accuracy(model))
print(f"test accuracy {accuracies[-1]:.0%}")

# %%
import matplotlib.pyplot as plt


figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(losses)
axes[0].set(xlabel="step", ylabel="training loss")
axes[1].plot(accuracies)
axes[1].set(xlabel="epoch", ylabel="test accuracy")
plt.show()

# %% [markdown]
# ## Weights and predictions
#
# `save_weights` writes timm's names, so timm can load the file. `load_weights` needs no
# initialised model: `eqx.filter_eval_shape` makes one without memory.

# %%
eqx_vit.save_weights(model, folder / "digits.safetensors", state)

like = eqx.filter_eval_shape(make, **settings, key=jax.random.key(0))
model, state = like
model, state = eqx_vit.load_weights(model, folder / "digits.safetensors", state)

image = centre(test.read(0))
logits = eqx_vit.predict(model, jnp.asarray(image[None]), state)[0]
plt.figure(figsize=(2, 2))
plt.imshow(image[..., 0], "gray")
plt.axis("off")
plt.title(f"{test.classes[logits.argmax()]}  {jax.nn.softmax(logits).max():.0%}")
plt.show()
