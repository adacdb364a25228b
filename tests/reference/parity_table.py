"""Prints the tables of docs/parity.md: `python tests/reference/parity_table.py [cases per operation]`."""

import sys
from collections.abc import Callable

import numpy as np
from litert_oracle import run_litert
from single_op import CASES, NOT_DELEGATED, Rng, grid, hard_swish_grids, random_grid

from qmnv3.ir import QParams
from qmnv3.reference import hard_sigmoid_i8, hard_swish_i8, run

EVERY_INPUT = np.arange(-128, 128).astype(np.int8)
GRIDS_PER_CASE = 20


def count_differences(kind: str, semantics: str, cases: int) -> tuple[int, int]:
    """Elements that differ from LiteRT, and all of them."""
    rng = np.random.default_rng(2)
    differ = total = 0
    for _ in range(cases):
        case = CASES[kind](rng)
        expected = run_litert(case.graph, case.inputs, semantics).outputs["y"]
        differ += int((run(case.graph, case.inputs, semantics)["y"] != expected).sum())
        total += expected.size
    return differ, total


def hard_swish_errors(rng: Rng) -> np.ndarray:
    source, output = hard_swish_grids(rng)
    x = source.dequantize(EVERY_INPUT).astype(np.float64)
    return hard_swish_i8(EVERY_INPUT, source, output) - output.quantize(x * np.clip(x + 3, 0, 6) / 6)


def hard_sigmoid_errors(rng: Rng) -> np.ndarray:
    source: QParams = random_grid(rng)
    x = source.dequantize(EVERY_INPUT).astype(np.float64)
    return hard_sigmoid_i8(EVERY_INPUT, source) - grid(1 / 256, -128).quantize(np.clip(x + 3, 0, 6) / 6)


def print_operations(cases: int) -> None:
    print("| operation | `tflite`: differ / elements | `xnnpack`: differ / elements |")
    print("| --- | --- | --- |")
    for kind in CASES:
        cells = []
        for semantics in ("tflite", "xnnpack"):
            differ, total = count_differences(kind, semantics, cases)
            note = " (not delegated)" if semantics == "xnnpack" and kind in NOT_DELEGATED else ""
            cells.append(f"{differ} / {total:,}{note}")
        print(f"| {kind} | {cells[0]} | {cells[1]} |")


def print_activations(pairs: int) -> None:
    print(f"\n| all 256 inputs, {pairs:,} grids | largest error in steps | inputs with an error |")
    print("| --- | --- | --- |")
    rows: dict[str, Callable[[Rng], np.ndarray]] = {
        "h-swish": hard_swish_errors,
        "hard-sigmoid": hard_sigmoid_errors,
    }
    for name, errors in rows.items():
        rng = np.random.default_rng(3)
        found = np.abs(np.concatenate([errors(rng) for _ in range(pairs)]))
        print(f"| {name} | {found.max()} | {100 * np.mean(found > 0):.2g} % |")


if __name__ == "__main__":
    requested = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print_operations(requested)
    print_activations(GRIDS_PER_CASE * requested)
