"""Models with one field changed: files that a parser takes, of which a runtime can make no sense."""

import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

_NUMBERS = (0, 1, 2, 3, 5, 8, 100, 1000, 2**16, 2**31 - 1, -1, -2, -128, -(2**31))
_REALS = (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"))
Set = Callable[[Any], None]
Field = tuple[Any, Set]
"""A value and what replaces it."""


def alter_tflite(content: bytes, rng: random.Random) -> bytes:
    """`content` with one number or list of a table changed."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    value, replace = rng.choice(list(_table_fields(model)))
    builder = flatbuffers.Builder(len(content))
    # A value that its field cannot hold: leave the file as it was.
    try:
        replace(_other(value, rng))
        builder.Finish(model.Pack(builder), b"TFL3")
    except Exception:
        return content
    return bytes(builder.Output())


def _table_fields(table: Any) -> Iterator[Field]:
    for name, value in vars(table).items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            if hasattr(item, "__dict__"):
                yield from _table_fields(item)
        # Weights are most of a file and change nothing in its course.
        weights = name == "data" and value is not None and len(value) > 64
        if value is not None and not weights and not hasattr(value, "__dict__"):
            yield value, partial(setattr, table, name)


def alter_json(content: bytes, rng: random.Random) -> bytes:
    """`content` with one value of a JSON object or list changed."""
    whole = json.loads(content)
    if whole:
        value, replace = rng.choice(list(_json_fields(whole)))
        replace(_other(value, rng))
    return json.dumps(whole).encode()


def _json_fields(value: Any) -> Iterator[Field]:
    keys: Any = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value[key], partial(value.__setitem__, key)
        if isinstance(value[key], dict | list):
            yield from _json_fields(value[key])


def alter_onnx(content: bytes, rng: random.Random) -> bytes:
    """`content` with one number, name or list of a message changed."""
    model = onnx.ModelProto.FromString(content)
    value, replace = rng.choice(list(_message_fields(model)))
    # As above.
    try:
        replace(_other(value, rng))
    except (TypeError, ValueError):
        return content
    return bytes(model.SerializeToString())


def _message_fields(message: Any) -> Iterator[Field]:
    for field, value in message.ListFields():
        if field.is_repeated:
            yield list(value), partial(_refill, message, field)
        if field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                yield from _message_fields(item)
        elif not field.is_repeated:
            yield value, partial(setattr, message, field.name)


def _refill(message: Any, field: Any, values: list[Any]) -> None:
    copies = [type(v).FromString(v.SerializeToString()) if hasattr(v, "ListFields") else v for v in values]
    message.ClearField(field.name)
    getattr(message, field.name).extend(copies)


def _other(value: Any, rng: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case float():
            return rng.choice(_REALS)
        case int():
            return rng.choice((*_NUMBERS, value + 1, value - 1))
        case str() | bytes():
            return value[: len(value) // 2]
        case list():
            return _other_items(value, rng)
        case np.ndarray() if value.ndim == 1:
            return np.array(_other_items(value.tolist(), rng), value.dtype)
    return None


def _other_items(items: list[Any], rng: random.Random) -> list[Any]:
    changed, at = list(items), rng.randrange(len(items)) if items else 0
    action = rng.choice(("drop", "double", "empty", "swap", "change", "change"))
    if action == "empty" or not items:
        return []
    if action == "drop":
        del changed[at]
    elif action == "double":
        changed.insert(at, changed[at])
    elif action == "swap":
        other = rng.randrange(len(items))
        changed[at], changed[other] = changed[other], changed[at]
    elif isinstance(changed[at], int | float | str | bytes):
        changed[at] = _other(changed[at], rng)
    return changed
