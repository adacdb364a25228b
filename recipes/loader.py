"""The one loader of recipes: YAML into a pydantic model, unknown keys refused by name."""

import difflib
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from qmnv3.errors import RecipeError

Config = TypeVar("Config", bound=BaseModel)
FOLDER = Path(__file__).parent
BASE = "base"


def list_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with qmnv3."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_recipe(name: str, model: type[Config], **overrides: Any) -> Config:
    """Read a shipped recipe by name or a YAML file by path into `model`; `overrides` win when not None.

    An override's key may name a value of a section, "section.key". A recipe may name another as its `base`
    and say only what differs.
    Raises RecipeError naming file, key and the nearest valid name.
    """
    path, value = _resolved(name, ())
    for key, item in overrides.items():
        if item is not None:
            _override(value, key.split("."), item)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_describe(error, model)}") from error


def _resolved(name: str, above: tuple[str, ...]) -> tuple[Path, dict[str, Any]]:
    """Path and values of a recipe, those of its base included; `above` are the recipes it is the base of."""
    path, value = _read(name)
    base = value.pop(BASE, None)
    if base is None:
        return path, value
    if base in (*above, name):
        raise RecipeError(f"{path}: base: {base} is based on this recipe; leave one of them out")
    return path, _merged(_resolved(str(base), (*above, name))[1], value)


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    path = FOLDER / f"{name}.yaml" if name in list_recipes() else Path(name)
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        near = difflib.get_close_matches(name, list_recipes(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(
            f"{name}: no such recipe; {hint}shipped are {', '.join(list_recipes())}, or give a .yaml file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML ({_problem(error)})") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: must hold keys and values, found {type(value).__name__}")
    return path, value


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key; where both have a value, `above` wins."""
    merged = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merged(below[key], above[key])
    return merged


def _override(value: dict[str, Any], keys: list[str], item: Any) -> None:
    *sections, last = keys
    for section in sections:
        inner = value.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # validation will name it
        value = inner
    value[last] = item


def _problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors()[0]
    if not first["loc"]:  # of the recipe as a whole
        return str(first["msg"])
    *parents, key = (str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{'.'.join((*parents, key))}: {first['msg']}, found {reprlib.repr(first['input'])}"
    valid = _fields(model, parents)
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys are {', '.join(valid)}"
    return f"unknown key {'.'.join((*parents, key))!r}; {hint}"


def _fields(model: type[BaseModel], parents: list[str]) -> list[str]:
    """Keys of the section that `parents`, keys and places in lists, lead to."""
    for parent in parents:
        if parent in model.model_fields:
            model = next(_sections(model.model_fields[parent].annotation), model)
    return list(model.model_fields)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
