"""Folders and repositories of weights that timm and transformers open."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from ..families import family_of
from ..families.configs import their_size
from ..families.formats import Format
from ..layers import check_choice, check_state, is_stack, KeptValues, pair, replaced
from .architecture import Architecture
from .preprocessor import write_preprocessor
from .record import Record
from .run_folder import run_config
from .weights import check_merged, formats_of, write_weights


def save_pretrained(
    model: eqx.Module,
    folder: str | os.PathLike,
    state: eqx.nn.State | None = None,
    *,
    format: str = "timm",
    classes: Sequence[str] | None = None,
    record: Record | None = None,
) -> None:
    """Writes a folder that timm or transformers opens without a line of code:
    `timm.create_model("local-dir:FOLDER", pretrained=True)` or
    `AutoModelForImageClassification.from_pretrained(FOLDER)`. So does
    `eqx_vit.create_model(FOLDER, key=key)`.

    It holds the weights in `model.safetensors`, the structure of the model and the
    names of its classes in `config.json`, and how images are prepared: in `config.json`
    for timm, in `preprocessor_config.json` for transformers.

    **Arguments:**

    - `model`: A model that the library has too.
    - `folder`: The folder; made if it does not exist. Files of these names in it are
        replaced, all of them or, after an error, none.
    - `state`: The model's running statistics, from
        `equinox.nn.make_with_state(Model)(...)`; not needed by a model without any.
    - `format`: `"timm"` or `"transformers"`. (All others are keyword only arguments.)
    - `classes`: The names of the classes, in order; by default those of `record`, and
        otherwise none.
    - `record`: How images are prepared, from [`eqx_vit.record`][] or `eqx_vit.zoo`. By
        default the whole image is resized, bicubically, to the size of the model, with
        ImageNet's mean and standard deviation.

    **Raises:**

    A `ValueError` that says why the library cannot build the model, that `classes` are
    not as many as the model has, or that the folder is one of a run; an `OSError`.
    """
    check_choice("format", format, ("timm", "transformers"))
    check_merged(model)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`folder={str(folder)!r}` is a file; give a folder.")
    if run_config(folder) is not None:
        raise ValueError(
            f"`folder={str(folder)!r}` is the folder of a run, whose `config.json` "
            "would be lost; give another folder."
        )
    files = _described(model, format, _names(model, classes, record), record)
    weights, is_new = files.pop("weights"), not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
            new = Path(temporary)
            check_state(model, state)
            write_weights(model, new / "model.safetensors", state, weights)
            for name, contents in files.items():
                text = json.dumps(contents, indent=2, ensure_ascii=False)
                (new / name).write_text(text + "\n", encoding="utf-8")
            _check_read_back(new, model, format)
            # The configuration last: with it the folder is complete.
            for name in ("model.safetensors", *reversed(files)):
                os.replace(new / name, folder / name)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _check_read_back(folder: Path, model: Any, format: str) -> None:
    """Raise a `ValueError` if a folder does not say all that the model is."""
    again, _ = Architecture.of_file(f"local-dir:{folder}").shapes()
    if _shapes(again) != _shapes(model):
        raise ValueError(
            f"{format} cannot build this {type(model).__name__}: what its "
            "`config.json` can say is another model. `eqx_vit.save_weights` writes its "
            "weights alone."
        )


def push_to_hub(
    model: eqx.Module,
    repository: str,
    state: eqx.nn.State | None = None,
    *,
    format: str = "timm",
    classes: Sequence[str] | None = None,
    record: Record | None = None,
    card: str = "",
    private: bool = False,
    message: str = "Upload a model of eqx_vit",
) -> str:
    """Uploads what [`eqx_vit.save_pretrained`][] writes, and a model card, to the
    Hugging Face hub. The repository is created if it does not exist.

    **Arguments:**

    - `model`, `state`, `format`, `classes`, `record`: As there.
    - `repository`: `"user/name"`.
    - `card`: What the model card says beside the facts about the model: the data it was
        trained on, how, and how well it does.
    - `private`: Whether a new repository is private.
    - `message`: The message of the commit.

    **Returns:**

    The address of the commit.

    **Raises:**

    As [`eqx_vit.save_pretrained`][]; an `ImportError` without huggingface_hub; a
    `PermissionError` if the hub does not allow it; a `ConnectionError`.
    """
    try:
        from huggingface_hub import errors, HfApi
    except ImportError as error:
        raise ImportError(
            "To upload a model needs the package huggingface_hub; install it with "
            "`pip install huggingface_hub`."
        ) from error
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_pretrained(
            model, folder, state, format=format, classes=classes, record=record
        )
        text = _card(model, repository, format, record, card)
        (folder / "README.md").write_text(text, encoding="utf-8")
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=message
            )
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403, 404):
                raise PermissionError(
                    f"The hub does not let you write to `{repository}` (status "
                    f"{status}): log in by `hf auth login` with a token that may "
                    "write, or give a name of your own."
                ) from error
            raise ConnectionError(
                f"The hub did not take `{repository}`: {error}. Try again."
            ) from error
        except OSError as error:
            raise ConnectionError(
                f"`{repository}` could not be uploaded: {error}. Check the connection "
                "and try again; save_pretrained writes the same to a folder."
            ) from error
    return str(commit.commit_url)


def _names(
    model: Any, classes: Sequence[str] | None, record: Record | None
) -> tuple[str, ...] | None:
    """The names of the classes, if they are as many as the model has."""
    number = _num_classes(model)
    if classes is None:
        known = None if record is None else record.classes
        return known if known is not None and len(known) == number else None
    if len(classes) != number:
        raise ValueError(
            f"`classes` has {len(classes)} names, and the model {number} classes; give "
            "one name for each, in the order of its outputs."
        )
    if len(set(classes)) != number:
        raise ValueError("`classes` has a name twice; give each class its own.")
    return tuple(map(str, classes))


def _num_classes(model: Any) -> int:
    for path in family_of(model).heads(model):
        head = attrgetter(path)(model)
        return 0 if head is None else head.weight.shape[0]
    return 0


def _image_size(model: Any, record: Record | None) -> tuple[int, int]:
    """The size of its images; of a model that takes any, the record's."""
    size = getattr(model, "image_size", None)
    if size is None:
        size = 224 if record is None else record.image_size
    return pair(size)


def _described(
    model: Any, format: str, classes: tuple[str, ...] | None, record: Record | None
) -> dict[str, Any]:
    """The files beside the weights, and the format of these."""
    if format == "timm":
        size = _image_size(model, record)
        config = timm_config(model, classes, size, _pixels(record))
        if record is not None and record.licence:
            config["pretrained_cfg"]["license"] = record.licence
        return {"weights": _timm_formats(model)[0], "config.json": config}
    return _for_transformers(model, classes, record)


_IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _pixels(record: Record | None) -> dict[str, Any]:
    if record is None:
        return dict(crop=1.0, crop_mode="squash", interpolation="bicubic", **_IMAGENET)
    names = ("mean", "std", "crop", "crop_mode", "interpolation")
    return {name: getattr(record, name) for name in names}


def timm_config(
    model: Any,
    classes: tuple[str, ...] | None,
    size: tuple[int, int],
    pixels: Mapping[str, Any],
) -> dict[str, Any]:
    """The `config.json` that timm builds a model from.

    **Arguments:**

    - `model`: A model, or its shapes.
    - `classes`: The names of its classes.
    - `size`: The `(height, width)` of its images.
    - `pixels`: How they are prepared: `mean`, `std`, `crop`, `crop_mode` and
        `interpolation`, as in a record.

    **Raises:**

    A `ValueError` that says why timm cannot build the model.
    """
    family, kind = family_of(model), type(model).__name__
    if not _timm_formats(model):
        raise ValueError(
            f"timm has no {kind}; `eqx_vit.save_weights` writes its weights alone, by "
            "the names of its authors' code."
        )
    num_classes = _num_classes(model)
    found = _published_as(model, size, num_classes)
    arguments: dict[str, Any] = {}
    if found is not None:
        architecture = found
        if family.size_arguments({}, size):
            arguments["img_size"] = their_size(size)
        if model.channels != 3:
            arguments["in_chans"] = model.channels
    elif family.write_timm is not None:
        try:
            architecture, arguments = family.write_timm(model)
        except ValueError as error:
            raise ValueError(f"timm cannot build this {kind}: {error}.") from error
    else:
        raise ValueError(
            f"timm can build a {kind} of its published sizes only, and this model is "
            "none of them; `eqx_vit.save_weights` writes its weights alone."
        )
    is_squashed = pixels["crop_mode"].startswith("squash")
    pretrained: dict[str, Any] = dict(
        input_size=[model.channels, *size],
        mean=list(pixels["mean"]),
        std=list(pixels["std"]),
        crop_pct=pixels["crop"],
        crop_mode="squash" if is_squashed else "center",
        interpolation=pixels["interpolation"],
        num_classes=num_classes,
        custom_load=False,
        fixed_input_size=bool(family.size_arguments({}, size)),
    )
    config: dict[str, Any] = dict(
        architecture=architecture, num_classes=num_classes, pretrained_cfg=pretrained
    )
    if "global_pool" in arguments:
        config["global_pool"] = arguments["global_pool"]
    if arguments:
        config["model_args"] = arguments
    if classes is not None:
        config["label_names"] = list(classes)
    return config


def _timm_formats(model: Any) -> list[Format]:
    return [f for f in formats_of(model) if f.name.startswith("timm")]


def _published_as(model: Any, size: tuple[int, int], num_classes: int) -> str | None:
    """The published size that a model has, if it has one."""
    family = family_of(model)
    wanted = _shapes(model)
    for name, variant in family.variants.items():
        if _surely_differs(variant.settings, model):
            continue
        settings = {**variant.settings, "num_classes": num_classes}
        settings |= dict(channels=model.channels)
        settings |= family.size_arguments(settings, size)
        try:
            made, _ = eqx.filter_eval_shape(
                eqx.nn.make_with_state(family.model), **settings, key=jr.key(0)
            )
        except ValueError:  # not for images of this size
            continue
        if _shapes(made) == wanted:
            return name
    return None


def _surely_differs(settings: Mapping[str, Any], model: Any) -> bool:
    """Whether a model has another width or depth than these settings give: a look that
    saves building the shapes of a hundred ViTs."""
    positions = getattr(model, "position_embedding", None)
    found = dict(
        dim=getattr(positions, "shape", (None,))[-1],
        depth=getattr(getattr(model, "transformer", None), "depth", None),
    )
    return any(
        value is not None
        and type(settings.get(name)) is int
        and settings[name] != value
        for name, value in found.items()
    )


def _shapes(model: Any) -> tuple:
    """What makes two models the same function of their weights: not the rates of what
    is dropped in training, nor how a stack is computed."""
    model = jax.tree.map(_without_rates, model, is_leaf=_has_rates)
    leaves, structure = jax.tree.flatten(eqx.nn.inference_mode(model))
    return str(structure), tuple(getattr(leaf, "shape", None) for leaf in leaves)


def _has_rates(x: Any) -> bool:
    return is_stack(x) or hasattr(x, "drop_rate") or isinstance(x, eqx.nn.Dropout)


def _without_rates(x: Any) -> Any:
    if isinstance(x, eqx.nn.Dropout):
        return eqx.nn.Dropout(0.0)
    if not _has_rates(x):
        return x
    changes: dict[str, Any] = {}
    if is_stack(x):
        changes = dict(drop_rates=x.depth * (0.0,), lift=KeptValues(None), unroll=False)
    elif hasattr(x, "drop_rate"):
        changes = dict(drop_rate=0.0)
    x = replaced(x, **changes)
    # (The modules inside have rates of their own.)
    inside = lambda y: y is not x and _has_rates(y)
    return jax.tree.map(
        lambda y: _without_rates(y) if inside(y) else y, x, is_leaf=inside
    )


def _for_transformers(
    model: Any, classes: tuple[str, ...] | None, record: Record | None
) -> dict[str, Any]:
    kind = type(model).__name__
    reasons: list[str] = []
    config, weights = None, None
    kinds = sorted(
        family_of(model).kinds, key=lambda kind: not kind.format.prefers(model)
    )
    for candidate in kinds:
        if reason := candidate.format.unfit(model):
            reasons.append(reason)
            continue
        try:
            config, weights = candidate.write(model), candidate.format
            break
        except ValueError as error:
            reasons.append(str(error))
    if config is None:
        reason = "; ".join(dict.fromkeys(reasons)) or "it has no such class"
        raise ValueError(f"transformers cannot build this {kind}: {reason}.")
    if "ForImageClassification" in config["architectures"][0]:
        names = classes or tuple(f"LABEL_{i}" for i in range(_num_classes(model)))
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    preprocessor = write_preprocessor(_image_size(model, record), _pixels(record))
    return {
        "weights": weights,
        "config.json": config,
        "preprocessor_config.json": preprocessor,
    }


def _card(
    model: Any, repository: str, format: str, record: Record | None, text: str
) -> str:
    """A model card: facts for the hub on top, then what there is to say."""
    library = "timm" if format == "timm" else "transformers"
    lines = ["---", f"library_name: {library}", "pipeline_tag: image-classification"]
    lines += ["tags:", "- image-classification", "- eqx_vit"]
    if record is not None and record.licence:
        lines.append(f"license: {record.licence}")
    if record is not None and record.source and not Path(record.source).exists():
        if not record.source.startswith("https://"):
            lines.append(f"base_model: {record.source}")
    opened = {
        "timm": f'timm.create_model("hf-hub:{repository}", pretrained=True)',
        "transformers": (
            f'AutoModelForImageClassification.from_pretrained("{repository}")'
        ),
    }[format]
    parameters = sum(
        x.size for x in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    )
    height, width = _image_size(model, record)
    lines += [
        "---",
        "",
        f"# {repository}",
        "",
        text,
        "",
        f"A {type(model).__name__} with {parameters / 1e6:.1f} M parameters for images "
        f"of {height} x {width} pixels and {_num_classes(model)} classes, trained with "
        "eqx_vit.",
        "",
        "```python",
        f'model, state = eqx_vit.create_model("hf-hub:{repository}", key=key)',
        opened,
        "```",
        "",
    ]
    return "\n".join(lines)
