"""Every operation on int16 activations against LiteRT, byte for byte; XNNPACK takes none of them."""

import numpy as np
import pytest
from int16_op import INT16_CASES, grid16
from litert_oracle import needs_x86, run_litert
from single_op import one_op

from qmnv3.errors import GraphError
from qmnv3.ir import HardSigmoid, HardSwish, Tensor
from qmnv3.reference import run

CASES_PER_OP = 100


@pytest.mark.parametrize("kind", INT16_CASES)
@pytest.mark.parametrize("semantics", ["tflite", pytest.param("xnnpack", marks=needs_x86)])
def test_equals_litert(kind: str, semantics: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(CASES_PER_OP):
        case = INT16_CASES[kind](rng)
        result = run_litert(case.graph, case.inputs, semantics)
        assert not result.delegated
        np.testing.assert_array_equal(
            run(case.graph, case.inputs, semantics)["y"],
            result.outputs["y"],
            strict=True,
            err_msg=f"case {number}",
        )


@pytest.mark.parametrize("kind", [HardSwish, HardSigmoid])
def test_hard_activations_are_lowered_first(kind: type[HardSwish] | type[HardSigmoid]) -> None:
    x = Tensor("x", (1, 2, 2, 3), "int16", grid16(0.001))
    graph = one_op(kind("op", ("x",), "y"), [x], grid16(0.001), "int16")
    with pytest.raises(GraphError, match=f"op: {kind.__name__} has no int16 arithmetic of its own; lower"):
        run(graph, {"x": np.zeros(x.shape, np.int16)}, "tflite")
