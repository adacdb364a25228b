"""What int16 tensors cost: XNNPACK runs none of their operations, so each cuts the network."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from device_eval.partitions import delegate_partitions
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import QuantGraph
from qmnv3.lowering import int16_tensors, lower


def describe_int16(names: Sequence[str], path: Path) -> str:
    """One line on the int16 tensors `names` of the TFLite file `path`."""
    partitions = delegate_partitions(path)
    without = partitions.count_without_int16
    aside = "" if without is None else f" ({without} without)"
    return (
        f"int16 tensors: {len(names)}; XNNPACK partitions: {partitions.count}{aside}; "
        f"{len(partitions.undelegated)} operations outside"
    )


def int16_cost(graph: QuantGraph) -> str | None:
    """`describe_int16` of a canonical graph as it would be exported for XNNPACK; None without int16."""
    names = int16_tensors(graph)
    if not names:
        return None
    with tempfile.TemporaryDirectory(prefix="qmnv3-") as folder:
        path = Path(folder) / "model.tflite"
        write_tflite(lower(graph, "xnnpack"), path)
        return describe_int16(names, path)
