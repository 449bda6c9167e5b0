# %% [markdown]
# # Where did NesT look?
#
# A [NesT](../../api/models/nest/) is a tree: at every level four blocks of the image
# are merged into one. GradCAT, the paper's own explanation, walks that tree from the
# whole image down, each time to the block that raised the logit of a class most. This
# page is executed whenever the documentation is built: it trains a small NesT to tell
# which four digits an image shows, and asks where each of them is.
#
# ## The images
#
# Four different digits, one in each quarter of an image of 32 x 32 pixels. The model is
# told which digits, never where.

# %%
import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from eqx_vit.data import digits


rng = np.random.default_rng(0)
data = digits()


def halve(images):
    return np.asarray(jax.image.resize(images, (len(images), 16, 16, 1), "linear"))


def collages(digits, labels, count):
    """Images of four digits, and which: from left to right, then down."""
    examples = [np.flatnonzero(labels == label) for label in range(10)]
    shown = np.argsort(rng.random((count, 10)), axis=1)[:, :4]
    chosen = np.array([[rng.choice(examples[c]) for c in row] for row in shown])
    rows = digits[chosen].reshape(count, 2, 2, 16, 16, 1)
    return rows.transpose(0, 1, 3, 2, 4, 5).reshape(count, 32, 32, 1), shown


train_digits, test_digits = halve(data.train_images), halve(data.test_images)
test_images, test_shown = collages(test_digits, data.test_labels, 500)
print(test_images.shape, test_shown[:3].tolist())

# %% [markdown]
# ## The model
#
# Three levels: sixteen blocks of 8 x 8 pixels, four of 16 x 16, one.

# %%
steps, batch_size = 400, 100
make = eqx.nn.make_with_state(eqx_vit.NesT)
model, state = make(
    image_size=32,
    patch_size=2,
    num_classes=10,
    dim=24,
    heads=2,
    num_hierarchies=3,
    block_repeats=1,
    mlp_mult=2,
    channels=1,
    key=jax.random.key(0),
)
schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, steps // 10, steps)
optimizer = optax.adamw(schedule, weight_decay=0.05)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

for key in jax.random.split(jax.random.key(1), steps):
    images, shown = collages(train_digits, data.train_labels, batch_size)
    labels = np.eye(10, dtype=np.float32)[shown].mean(axis=1)  # a quarter each
    model, state, opt_state, loss = eqx_vit.train_step(
        model,
        state,
        opt_state,
        jnp.asarray(images),
        jnp.asarray(labels),
        optimizer,
        key=key,
    )

logits = eqx_vit.predict(model, jnp.asarray(test_images), state)
named = np.argsort(np.asarray(logits), axis=1)[:, -4:]
found = [len(set(a) & set(b)) / 4 for a, b in zip(named, test_shown)]
print(f"{np.mean(found):.1%} of the digits are named")

# %% [markdown]
# ## The walk
#
# `grad_cat` takes one image and one class, and gives a region for every step of the
# walk: here a quarter of the image, then a quarter of that. It is a pure function, to
# be mapped and compiled as any other.

# %%
walk = eqx.filter_vmap(eqx_vit.models.grad_cat, in_axes=(None, None, 0))  # over classes
walk = eqx.filter_jit(eqx.filter_vmap(walk, in_axes=(None, 0, 0)))  # over images
regions = np.asarray(walk(model, jnp.asarray(test_images), jnp.asarray(test_shown)))
print(regions[0, 0].tolist(), "as (top, left, height, width)")

corners = np.array([[0, 0], [0, 16], [16, 0], [16, 16]])
right = (regions[:, :, 0, :2] == corners).all(axis=-1)
print(f"the first step goes to the digit's quarter in {right.mean():.1%}")

# %% [markdown]
# By chance it would be 25 %. Drawn over three images, once for each of their digits;
# the wider frame is the first step:

# %%
figure, axes = plt.subplots(3, 4, figsize=(8, 6.4), layout="constrained")
for row, image, shown, walks in zip(axes, test_images, test_shown, regions):
    for axis, label, boxes in zip(row, shown, walks):
        axis.imshow(image[..., 0], cmap="gray")
        for (top, left, height, width), colour in zip(
            boxes, ("tab:orange", "tab:cyan")
        ):
            frame = plt.Rectangle((left - 0.5, top - 0.5), width, height)
            frame.set(fill=False, edgecolor=colour, linewidth=2)
            axis.add_patch(frame)
        axis.set_title(f"where is the {label}?", fontsize=9)
        axis.axis("off")
plt.show()
