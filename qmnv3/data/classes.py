"""Which model output belongs to which class folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qmnv3.data.image_set import ImageSet
from qmnv3.errors import DataError

CLASSES_FILE = "classes.json"


@dataclass(frozen=True)
class ClassIndex:
    """`outputs[i]` is the model output of folder class i, counted after dropping the background if any.

    `drop_background`: the model's output 0 is "background" (Google's 1001-class releases) and has no folder.
    """

    outputs: tuple[int, ...]
    drop_background: bool = False


def class_index(
    folder: ImageSet, num_outputs: int, labels: Sequence[str] = (), classes_file: Path | None = None
) -> ClassIndex:
    """Match the folders' names to a model's outputs.

    Tried in order: `classes_file` when given; the model's own `labels`; as many folders as outputs (sorted
    order); `classes.json` in or beside the folder (names sorted give index 0, 1, ...). One output more than
    classes means a background class at 0. Raises DataError when nothing fits.
    """
    if classes_file is not None:
        return _by_name(folder, read_classes(classes_file), num_outputs, str(classes_file))
    if len(labels) == num_outputs and set(folder.classes) & set(labels):
        return _by_label(folder, labels)
    if len(folder.classes) in (num_outputs, num_outputs - 1):
        return ClassIndex(tuple(range(len(folder.classes))), len(folder.classes) == num_outputs - 1)
    beside = classes_beside(folder.root)
    if beside is not None:
        return _by_name(folder, read_classes(beside), num_outputs, str(beside))
    raise DataError(
        f"{folder.root}: {len(folder.classes)} class folders but the model has {num_outputs} outputs; "
        'put a classes.json {"folder": "name", ...} of all classes beside it, or pass --classes FILE'
    )


def classes_beside(root: Path) -> Path | None:
    """`classes.json` in or beside a folder, if there is one."""
    candidates = (root / CLASSES_FILE, root.resolve().parent / CLASSES_FILE)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _by_label(folder: ImageSet, labels: Sequence[str]) -> ClassIndex:
    unknown = [name for name in folder.classes if name not in labels]
    if unknown:
        raise DataError(
            f"{folder.root / unknown[0]}: class folder {unknown[0]!r} is not a label of the model"
        )
    return ClassIndex(tuple(labels.index(name) for name in folder.classes))


def _by_name(folder: ImageSet, names: list[str], num_outputs: int, source: str) -> ClassIndex:
    if len(names) not in (num_outputs, num_outputs - 1):
        raise DataError(f"{source}: {len(names)} classes but the model has {num_outputs} outputs")
    position = {name: index for index, name in enumerate(names)}
    missing = [name for name in folder.classes if name not in position]
    if missing:
        raise DataError(f"{folder.root / missing[0]}: class folder {missing[0]!r} is not in {source}")
    return ClassIndex(tuple(position[name] for name in folder.classes), len(names) == num_outputs - 1)


def read_classes(path: Path) -> list[str]:
    """Names of all classes in order, from {"folder": "name", ...}; DataError if the file is not that."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    return parse_classes(text, str(path))


def parse_classes(text: str, source: str) -> list[str]:
    """As `read_classes`; `source` is what errors name."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{source}: not readable as JSON ({error})") from error
    if not isinstance(value, dict) or not value:
        raise DataError(f'{source}: expected one JSON object {{"folder": "name", ...}}')
    return sorted(value)
