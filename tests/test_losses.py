"""Losses: their values, what is not legal, and that models learn by them."""

from typing import Any

import equinox as eqx
import eqx_vit
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from eqx_vit import Loss
from eqx_vit.training import balanced_weights

from .helpers import assert_close, copied, models


LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]], np.float32)
CLASSES = np.array([0, 2])
ROWS = np.array([[1, 0, 1], [0, 0, 0]], np.float32)


def binary(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


SMOOTH = 0.9 * np.eye(3)[CLASSES] + 0.1 / 3
WEIGHTS = np.array([1.0, 2.0, 0.5])
P = 1 / (1 + np.exp(-LOGITS))
VALUES = {
    "weights": (
        Loss(class_weights=(1.0, 2.0, 0.5)),
        CLASSES,
        WEIGHTS[CLASSES]
        * -np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True))[
            [0, 1], CLASSES
        ],
    ),
    "classes": (
        Loss(kind="sigmoid"),
        CLASSES,
        binary(LOGITS, np.eye(3)[CLASSES]).mean(1),
    ),
    "rows": (Loss(kind="sigmoid"), ROWS, binary(LOGITS, ROWS).mean(1)),
    "smoothing": (
        Loss(kind="sigmoid", label_smoothing=0.1),
        CLASSES,
        binary(LOGITS, SMOOTH).mean(1),
    ),
    "threshold": (
        Loss(kind="sigmoid", threshold=0.2),
        np.array([[0.3, 0.1, 0.6], [0.2, 0, 0.21]], np.float32),
        binary(LOGITS, np.array([[1, 0, 1], [0, 0, 1]])).mean(1),
    ),
    "sigmoid weights": (
        Loss(kind="sigmoid", class_weights=(1.0, 2.0, 0.5)),
        ROWS,
        (WEIGHTS * binary(LOGITS, ROWS)).mean(1),
    ),
    "focal": (
        Loss(kind="focal", gamma=1.5, alpha=0.25),
        ROWS,
        np.where(
            ROWS == 1,
            -0.25 * (1 - P) ** 1.5 * np.log(P),
            -0.75 * P**1.5 * np.log(1 - P),
        ).mean(1),
    ),
    "squared": (Loss(kind="squared"), ROWS, ((LOGITS - ROWS) ** 2).mean(1)),
    "absolute": (Loss(kind="absolute"), ROWS, abs(LOGITS - ROWS).mean(1)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    loss, labels, wanted = VALUES[name]
    assert_close(loss(LOGITS, labels), wanted)


@pytest.mark.parametrize("kind", ["sigmoid", "squared", "absolute"])
def test_one_output(kind):
    logits, labels = LOGITS[:, :1], np.array([1.0, 0.0], np.float32)
    assert_close(
        Loss(kind=kind)(logits, labels), Loss(kind=kind)(logits, labels[:, None])
    )
    if kind == "sigmoid":
        whole = Loss(kind=kind)(logits, np.array([1, 0]))
        assert_close(whole, binary(logits[:, 0], labels))


@pytest.mark.parametrize(
    "loss, labels, message",
    [
        ("sigmoid", [[0.5, 1.2]], r"labels\[0\]. has values from 0.5 to 1.2.*0 to 1"),
        ("focal", [[-0.5, 1.0]], "from 0 to 1"),
        ("squared", [[np.nan, 1.0]], "not finite"),
        ("softmax", [[1.0, 1.0]], "loss='sigmoid'"),
        ("softmax", [0.5], "loss='squared'"),
        ("hinge", [[1.0, 1.0]], "`loss='hinge'` is none of 'softmax', 'sigmoid'"),
    ],
)
def test_labels_that_are_not_legal(loss, labels, message):
    model = lambda image, *, key=None: image.mean((0, 1))[:2]
    images = jnp.ones((1, 4, 4, 3))
    with pytest.raises(ValueError, match=message):
        eqx_vit.evaluate(model, images, np.array(labels, np.float32), loss=loss)


def test_traced_labels_that_are_not_legal_give_nan():
    rows = jnp.array([[0.5, 1.2, 0.0], [0, 0, 1.0]])
    losses = jax.jit(Loss(kind="sigmoid"))(LOGITS, rows)
    assert np.isnan(losses).tolist() == [True, False]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(kind="hinge"), "`kind='hinge'` is none of"),
        (dict(kind="squared", label_smoothing=0.1), "does not go with `kind='squared'"),
        (dict(threshold=0.2), "does not go with `kind='softmax'`"),
        (dict(kind="sigmoid", threshold=2.0), "`threshold=2.0`"),
        (dict(class_weights=(1.0, -1.0)), "class_weights"),
    ],
)
def test_settings_that_are_not_legal(settings, message):
    with pytest.raises(ValueError, match=message):
        Loss(**settings)


@pytest.mark.parametrize(
    "loss, labels, message",
    [
        (Loss(class_weights=(1.0,)), CLASSES, "has 1 entries.*3 outputs"),
        (Loss(kind="squared"), CLASSES.astype(np.float32), r"\(2,\).*3 output"),
        (Loss(kind="sigmoid"), ROWS[:, :2], r"\(2, 2\).*3 output"),
    ],
)
def test_sizes_that_do_not_fit(loss, labels, message):
    with pytest.raises(ValueError, match=message):
        loss(LOGITS, labels)


def test_balanced_weights():
    assert balanced_weights([0, 0, 0, 1], 2) == (4 / 6, 2.0)
    with pytest.raises(ValueError, match="No image is of class 2"):
        balanced_weights([0, 1], 3)


IMAGES = jr.normal(jr.key(1), (8, 32, 32, 3))
MANY = (np.arange(80).reshape(8, 10) % 3 == 0).astype(np.float32)
LEARNT = {
    "sigmoid": ("sigmoid", MANY),
    "focal": (Loss(kind="focal", alpha=0.5), MANY),
    "squared": ("squared", MANY - 0.5),
    "your own": (lambda logits, labels: jnp.abs(logits - labels).max(-1), MANY),
}


@pytest.mark.parametrize("name", LEARNT)
def test_a_model_learns(name):
    loss, labels = LEARNT[name]
    made = eqx.nn.make_with_state(models["SimpleViT"])(depth=1, key=jr.key(0))
    model, state = copied(made)
    optimizer = optax.sgd(0.3, momentum=0.9)
    opt_state = jax.jit(optimizer.init)(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for key in jr.split(jr.key(2), 8):
        model, state, opt_state, value = eqx_vit.train_step(
            model, state, opt_state, IMAGES, labels, optimizer, loss=loss, key=key
        )
        losses.append(float(value))
    assert losses[-1] < 0.9 * losses[0]


def test_scores():
    model = lambda image, *, key=None: image[0, 0]
    images = jnp.asarray(np.broadcast_to(LOGITS[:, None, None], (2, 2, 2, 3)))
    score = lambda labels, loss: float(
        eqx_vit.evaluate(model, images, labels, loss=loss)[1]
    )
    assert score(CLASSES, "softmax") == score(CLASSES, "sigmoid") == 0.5
    assert np.isclose(score(ROWS, "sigmoid"), 5 / 6)
    assert np.isclose(score(ROWS, "squared"), abs(LOGITS - ROWS).mean())
    own = lambda logits, labels: abs(logits - labels).mean(-1)
    assert np.isnan(score(ROWS, own))


@pytest.mark.parametrize("loss", ["sigmoid", "squared", lambda x, y: x[:, 0]])
def test_distillation_goes_with_softmax(loss):
    model, state = eqx.nn.make_with_state(models["SimpleViT"])(key=jr.key(0))
    settings: Any = dict(distillation=eqx_vit.Distillation(), teacher_logits=MANY)
    with pytest.raises(ValueError, match="`distillation` goes with softmax"):
        eqx_vit.train_step(
            *(model, state, None, IMAGES, MANY, optax.sgd(0.1)),
            **settings,
            loss=loss,
            key=jr.key(0),
        )


def test_a_loss_that_is_not_one_per_image():
    model = lambda image, *, key=None: image.mean((0, 1))
    with pytest.raises(ValueError, match="`loss` returned.*a loss per image"):
        eqx_vit.evaluate(
            model, jnp.ones((2, 4, 4, 3)), ROWS, loss=lambda x, y: x.mean()
        )
