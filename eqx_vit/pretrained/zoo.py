import csv
import difflib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.resources import files
from types import MappingProxyType

from ..families import families
from .record import Record


_PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "satellite": ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_VARIANTS = {
    name: variant
    for family in families().values()
    for name, variant in family.variants.items()
}


def _record(row: dict[str, str]) -> Record:
    variant = _VARIANTS[_architecture(row["name"])]
    mean, std = _PIXELS[row["pixels"]]
    return Record(
        name=row["name"],
        model=variant.model,
        settings=MappingProxyType(variant.settings),
        num_classes=int(row["classes"]),
        source=row["source"] or None,
        file=row["file"] or None,
        revision=None,
        licence=row["licence"] or None,
        image_size=(variant.side, variant.side),
        mean=mean,
        std=std,
        crop=float(row["crop"]),
        crop_mode=row["crop_mode"],
        interpolation=row["interpolation"],
        top1=float(row["top1"]) if row["top1"] else None,
        parameters=float(row["parameters"]) if row["parameters"] else None,
        paper=f"https://arxiv.org/abs/{row['paper']}" if row["paper"] else None,
    )


def _architecture(name: str) -> str:
    """A name without the tag of its training."""
    return name.partition(".")[0]


class Zoo(Mapping[str, Record]):
    """All published checkpoints: a mapping from names to records.

    `print(eqx_vit.zoo)` shows them as a table, `eqx_vit.zoo["cait_s24_224"]` is one
    [`eqx_vit.pretrained.Record`][]. A name without its tag, the part behind the point,
    stands for the first checkpoint of that name. Iteration gives the full names.
    """

    def __init__(self, records: Mapping[str, Record]):
        self._records = dict(records)
        # Setting the default from the back leaves the first of each name.
        self._first = {_architecture(n): r for n, r in reversed(self._records.items())}

    def __getitem__(self, name: str) -> Record:
        record = self._records.get(name) or self._first.get(name)
        if record is None:
            raise KeyError(self.unknown(name))
        return record

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def unknown(self, name: str) -> str:
        """The message about a name that no checkpoint has."""
        names = [*self._first, *self._records]
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0)
        return (
            f"`name={name!r}` is not in the zoo; the nearest names are "
            f"{', '.join(map(repr, nearest))}. `eqx_vit.list_models()` lists all."
        )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield (
            "name",
            "class",
            "parameters (M)",
            "image",
            "classes",
            "top-1 (%)",
            "licence",
        )
        for record in self._records.values():
            yield (
                record.name,
                record.model.__name__,
                _text(record.parameters),
                str(record.image_size[0]),
                str(record.num_classes),
                _text(record.top1),
                record.licence or "",
            )

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        """The table with links, for notebooks and the documentation."""
        head, *rows = self._rows()
        lines = ["| " + " | ".join((*head, "weights")) + " |"]
        lines.append("|---" * (len(head) + 1) + "|")
        for row, record in zip(rows, self._records.values()):
            name = f"[`{row[0]}`]({record.paper})" if record.paper else f"`{row[0]}`"
            lines.append(f"| {name} | {' | '.join(row[1:])} | {_link(record)} |")
        return "\n".join(lines)


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:g}"


def _link(record: Record) -> str:
    if record.source is None:
        return "none"
    if record.source.startswith("https://"):
        kind = "file" if record.direct else "page"
        return f"[{kind}]({record.source})"
    return f"[hub](https://huggingface.co/{record.source})"


def _read() -> Zoo:
    text = (files("eqx_vit.pretrained") / "checkpoints.csv").read_text()
    records = map(_record, csv.DictReader(text.splitlines()))
    return Zoo({record.name: record for record in records})


zoo = _read()


def list_models(pattern: str = "*") -> list[str]:
    """The names of the published checkpoints.

    **Arguments:**

    - `pattern`: A pattern of names, as in a shell: `"cait_*"`, `"*_384*"`. A name
        without its tag matches too: `"vit_base_patch16_224"` gives all checkpoints of
        that size.

    **Returns:**

    The names, in the order of the zoo, each as [`eqx_vit.create_model`][] takes it.
    """
    return [
        name
        for name in zoo
        if fnmatchcase(name, pattern) or fnmatchcase(_architecture(name), pattern)
    ]
