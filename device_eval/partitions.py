"""How LiteRT's XNNPACK delegate cuts a TFLite graph."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.runners.litert import load_interpreter, operations_of
from qmnv3.errors import ModelFileError


@dataclass(frozen=True)
class Partitions:
    """`count` delegated pieces holding `delegated_ops` of the file's operations; the rest run built in.

    `undelegated` lists those others as (operation index, name). `op_counts` counts the file's operations by
    name, most frequent first. `int16_ops` of the undelegated ones read or write int16, which XNNPACK never
    takes. `refused` is LiteRT's message when the delegate rejects the whole model.
    """

    count: int
    delegated_ops: int
    undelegated: tuple[tuple[int, str], ...]
    op_counts: dict[str, int]
    int16_ops: int = 0
    refused: str | None = None

    @property
    def count_without_int16(self) -> int | None:
        """What `count` would be with int8 instead: 1 when nothing else is outside, else not known."""
        return 1 if self.refused is None and self.int16_ops == len(self.undelegated) else None


def delegate_partitions(path: Path) -> Partitions:
    """Load `path` with LiteRT's default XNNPACK delegate and read back how it was partitioned.

    Raises ModelFileError when the file is no TFLite model at all.
    """
    interpreter = load_interpreter(path, "builtin", 1)
    plain = operations_of(interpreter)
    wide = {int(t["index"]) for t in interpreter.get_tensor_details() if t["dtype"] is np.int16}
    op_counts = dict(Counter(op["op_name"] for op in plain).most_common())
    try:
        nodes = operations_of(load_interpreter(path, "xnnpack", 1))
    except ModelFileError as error:
        return Partitions(0, 0, _named(plain), op_counts, _touching(plain, wide), str(error))
    delegates = [node for node in nodes if node["op_name"] == "DELEGATE"]
    inside = _delegated(plain, delegates)
    outside = [op for op in plain if op["index"] not in inside]
    return Partitions(len(delegates), len(inside), _named(outside), op_counts, _touching(outside, wide))


def _delegated(operations: list[dict[str, Any]], delegates: list[dict[str, Any]]) -> set[int]:
    """Indices of operations between each delegate's inputs and outputs, found walking backwards.

    LiteRT keeps replaced operations in its list, so absence from it says nothing.
    """
    producers = {int(tensor): op for op in operations for tensor in op["outputs"]}
    inside: set[int] = set()
    for delegate in delegates:
        boundary = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            if tensor in boundary or tensor not in producers or producers[tensor]["index"] in inside:
                continue
            inside.add(producers[tensor]["index"])
            waiting.extend(int(source) for source in producers[tensor]["inputs"])
    return inside


def _touching(operations: list[dict[str, Any]], tensors: set[int]) -> int:
    return sum(1 for op in operations if tensors & {int(t) for t in (*op["inputs"], *op["outputs"])})


def _named(operations: list[dict[str, Any]]) -> tuple[tuple[int, str], ...]:
    return tuple((int(op["index"]), str(op["op_name"])) for op in operations)
