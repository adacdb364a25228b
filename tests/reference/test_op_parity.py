"""Every operation against LiteRT, byte for byte, in both arithmetics."""

import numpy as np
import pytest
from litert_oracle import needs_x86, run_litert
from single_op import CASES, NOT_DELEGATED

from qmnv3.reference import run

CASES_PER_OP = 100


@pytest.mark.parametrize("kind", CASES)
def test_equals_litert_reference_kernels(kind: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(CASES_PER_OP):
        case = CASES[kind](rng)
        expected = run_litert(case.graph, case.inputs, "tflite").outputs["y"]
        np.testing.assert_array_equal(
            run(case.graph, case.inputs, "tflite")["y"], expected, strict=True, err_msg=f"case {number}"
        )


@needs_x86
@pytest.mark.parametrize("kind", CASES)
def test_equals_the_xnnpack_delegate(kind: str) -> None:
    rng = np.random.default_rng(1)
    for number in range(CASES_PER_OP):
        case = CASES[kind](rng)
        result = run_litert(case.graph, case.inputs, "xnnpack")
        assert result.delegated == (kind not in NOT_DELEGATED), f"case {number}"
        np.testing.assert_array_equal(
            run(case.graph, case.inputs, "xnnpack")["y"],
            result.outputs["y"],
            strict=True,
            err_msg=f"case {number}",
        )
