"""A small MobileNetV3 with some tensors in int16, from FakeQuantize to LiteRT: same integers, less error."""

import copy

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from quant.nets import TinyNet, randomize
from reference.litert_oracle import needs_x86, run_litert
from torch import fx

from calibration.config import PtqConfig
from calibration.ptq import calibrate, to_nchw
from qmnv3.ir import Metadata, QuantGraph
from qmnv3.lowering import Target, int16_tensors, lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import HARD_SIGMOID_INT16_QPARAMS, int16_qparams
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import FakeQuantize, activation_sites
from qmnv3.quant.sites import read_sites
from qmnv3.reference import run

POSITIONS = {
    "convolution": ("project.0",),
    "depthwise convolution": ("depthwise.0",),
    "input of h-swish": ("expand.0",),
    "output of h-swish": ("expand.2",),
    "output of h-swish, read twice": ("stem.2",),
    "residual sum": ("add",),
    "squeeze-and-excite product": ("mul",),
    "squeeze-and-excite mean": ("se.pool",),
    "squeeze-and-excite gate": ("se.expand",),
    "after flattening": ("head.0",),
    "around h-swish": ("expand.0", "expand.2"),
}
POSITIONS["everywhere"] = ("stem.0", "se.reduce", "pool", "head.2", *sorted(set(sum(POSITIONS.values(), ()))))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (16, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def frozen(images: np.ndarray) -> fx.GraphModule:
    torch.manual_seed(0)
    return calibrate(randomize(TinyNet()), Preprocessing(32, 36), lambda: [images], PtqConfig(level=1)).model


def with_int16(frozen: fx.GraphModule, names: tuple[str, ...]) -> QuantGraph:
    """`frozen` converted with the sites `names` in int16, over the range that their int8 grids have."""
    model = copy.deepcopy(frozen)
    sites = {site.name: site.fake_quant for site in read_sites(model)}
    for name in names:
        low, high = sites[name].qparams.dequantize([-128, 127])
        hard_sigmoid = name == "se.expand"
        sites[name].qparams = HARD_SIGMOID_INT16_QPARAMS if hard_sigmoid else int16_qparams(low, high)
    return convert(model, Metadata())


def quantized_images(graph: QuantGraph, images: np.ndarray) -> np.ndarray:
    return graph.tensors["image"].qparams.quantize(images).astype(np.int8)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("target", ["xnnpack", "tflite-builtin"])
def test_every_tensor_equals_litert_reference_kernels(
    frozen: fx.GraphModule, images: np.ndarray, position: str, target: Target
) -> None:
    canonical = with_int16(frozen, POSITIONS[position])
    assert set(int16_tensors(canonical)) == set(POSITIONS[position])
    graph = lower(canonical, target)
    x = quantized_images(graph, images[:1])
    ours = run(graph, {"image": x}, "tflite", keep=True)
    theirs = litert_tensors(graph, x, OpResolverType.BUILTIN_REF)
    assert theirs.keys() == {op.output for op in graph.ops}
    for op in graph.ops:
        np.testing.assert_array_equal(ours[op.output], theirs[op.output], strict=True, err_msg=op.name)
    for name in POSITIONS[position]:
        assert ours[name].dtype == np.int16
        # h-swish of an int8 tensor has no more values than that, however fine its own grid is.
        assert len(np.unique(ours[name])) > min(100, ours[name].size / 4)


@needs_x86
@pytest.mark.parametrize("position", POSITIONS)
def test_logits_equal_litert_with_xnnpack(frozen: fx.GraphModule, images: np.ndarray, position: str) -> None:
    graph = lower(with_int16(frozen, POSITIONS[position]), "xnnpack")
    for image in quantized_images(graph, images):
        theirs = run_litert(graph, {"image": image[None]}, "xnnpack").outputs["logits"]
        np.testing.assert_array_equal(run(graph, {"image": image[None]}, "xnnpack")["logits"], theirs)


def float_values(frozen: fx.GraphModule, images: np.ndarray) -> dict[str, np.ndarray]:
    """The float network's activations by site, NHWC."""
    found: dict[str, np.ndarray] = {}

    def keep(site: FakeQuantize, _: object, output: torch.Tensor) -> None:
        maps = output if output.dim() == 4 else output[:, :, None, None]
        found[site.site] = maps.permute(0, 2, 3, 1).numpy()

    hooks = [site.register_forward_hook(keep) for site in activation_sites(frozen).values()]
    with torch.inference_mode():
        frozen(to_nchw(images))
    for hook in hooks:
        hook.remove()
    return found


def squared_error(canonical: QuantGraph, name: str, images: np.ndarray, expected: np.ndarray) -> float:
    """Mean squared error of tensor `name` as deployed, where its grid may be declared larger than it is."""
    graph = lower(canonical, "xnnpack")
    integers = run(graph, {"image": quantized_images(graph, images)}, "tflite", keep=True)[name]
    return float(np.square(canonical.tensors[name].qparams.dequantize(integers) - expected).mean())


@pytest.mark.parametrize("position", POSITIONS)
def test_the_tensor_comes_nearer_to_float(frozen: fx.GraphModule, images: np.ndarray, position: str) -> None:
    names = POSITIONS[position]
    expected = float_values(frozen, images)[names[-1]]
    int8, int16 = (
        squared_error(with_int16(frozen, chosen), names[-1], images, expected) for chosen in ((), names)
    )
    assert int16 < int8


def test_int16_everywhere_leaves_less_of_the_error(frozen: fx.GraphModule, images: np.ndarray) -> None:
    expected = float_values(frozen, images)["head.4"]
    int8, int16 = (
        squared_error(with_int16(frozen, chosen), "head.4", images, expected)
        for chosen in ((), POSITIONS["everywhere"])
    )
    assert int16 < 0.75 * int8  # what is left is the weights' and the output's own
