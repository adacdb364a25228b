"""Networks against what others published about them: keys, parameters, padding, where h-swish is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from qmnv3.errors import ModelError
from qmnv3.models.config import ModelOptions, scaled
from qmnv3.models.network import MobileNet, build_model
from qmnv3.models.padding import Conv2dSame

KEYS = Path(__file__).parent / "keys"
# torch and ONNX Runtime add up in different orders.
CONV_ATOL = 1e-5


@pytest.mark.parametrize("name", ["large", "small", "v2"])
def test_keys_are_torchvisions(name: str) -> None:
    lines = (KEYS / f"{name}.txt").read_text().splitlines()[1:]
    assert list(build_model(name).state_dict()) == [line.split()[0] for line in lines]


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        # num_params in torchvision's weight documentation.
        ("large", {}, 5_483_032),
        ("small", {"head_width": 1024}, 2_542_856),
        ("v2", {}, 3_504_872),
    ],
)
def test_parameters_as_torchvision_publishes(name: str, options: ModelOptions, published: int) -> None:
    assert sum(p.numel() for p in build_model(name, **options).parameters()) == published


@pytest.mark.parametrize("name", ["large", "small", "large_minimalistic", "small_minimalistic", "v2"])
@pytest.mark.parametrize("padding", ["tf_same", "symmetric"])
def test_fx_traces_the_whole_model(name: str, padding: str) -> None:
    model = build_model(name, width=0.35, num_classes=10, padding=padding).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 3, 65, 64)
    with torch.no_grad():
        expected = model(x)
        assert expected.shape == (2, 10)
        assert expected.std() > 1e-5, "signals die out in the random model"
        assert torch.equal(fx.symbolic_trace(model)(x), expected)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
)
def test_same_padding_is_onnx_same_upper(size: tuple[int, int], kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = Conv2dSame(2, 4, kernel, stride, groups=2)
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        ours = layer(x).numpy()
    np.testing.assert_allclose(ours, _onnx_same_upper(layer, x.numpy()), atol=CONV_ATOL)


def _onnx_same_upper(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    assert layer.bias is not None
    node = onnx.helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], auto_pad="SAME_UPPER", strides=list(layer.stride), group=layer.groups
    )
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [
            onnx.numpy_helper.from_array(layer.weight.detach().numpy(), "w"),
            onnx.numpy_helper.from_array(layer.bias.detach().numpy(), "b"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result = session.run(None, {"x": x})[0]
    assert isinstance(result, np.ndarray)
    return result


@given(st.floats(1, 4000))
def test_scaled_is_a_multiple_of_8_never_10_percent_down(channels: float) -> None:
    result = scaled(channels)
    assert result % 8 == 0
    assert 0.9 * channels <= result <= max(8.0, channels + 8)


def test_bn_and_stem_follow_the_paper_and_the_checkpoints() -> None:
    large, v2 = build_model("mobilenet_v3_large"), build_model("mobilenet_v2")
    norms = [m for m in large.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert {m.eps for m in v2.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert build_model("large", stem_width=32).state_dict()["features.0.0.weight"].shape[0] == 32


def _activations(model: MobileNet) -> dict[str, str]:
    """Type of the activation of every stage of features, and of the head."""
    kinds = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)
    found = {}
    for name, module in model.named_modules():
        in_gate = name.endswith(".activation")
        if isinstance(module, kinds) and not in_gate:
            found[".".join(name.split(".")[: 1 if name.startswith("classifier") else 2])] = type(
                module
            ).__name__
    return found


def test_h_swish_begins_where_table_1_says() -> None:
    found = _activations(build_model("large"))
    assert [found[f"features.{i}"] for i in range(1, 16)] == ["ReLU"] * 6 + ["Hardswish"] * 9
    assert found["features.0"] == found["features.16"] == found["classifier"] == "Hardswish"


@pytest.mark.parametrize(
    ("nonlinearity", "h_swish_from"),
    [("hswish@16", 0), ("hswish@80", 7), ("hswish@112", 11), ("relu", 99), ("hswish", 0)],
)
def test_h_swish_from_n_channels(nonlinearity: str, h_swish_from: int) -> None:
    found = _activations(build_model("large", nonlinearity=nonlinearity))
    stages = [found[f"features.{i}"] for i in range(17)]
    assert stages == ["Hardswish" if i >= h_swish_from else "ReLU" for i in range(17)]


def test_one_site_can_be_chosen() -> None:
    found = _activations(
        build_model("small", nonlinearity="relu", activations={"features.3": "swish", "classifier": "hswish"})
    )
    assert found.pop("features.3") == "SiLU"
    assert found.pop("classifier") == "Hardswish"
    assert set(found.values()) == {"ReLU"}


def test_minimalistic_has_no_se_no_h_swish_no_5x5() -> None:
    model = build_model("small_minimalistic")
    assert not any(isinstance(m, nn.Hardswish | nn.Hardsigmoid) for m in model.modules())
    assert {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)} == {(1, 1), (3, 3)}


def test_seed_decides_the_weights_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (
        build_model("small", width=0.35, seed=seed).classifier[0].weight for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smal", {}, "unknown model 'smal'.*did you mean 'small'"),
        ("small", {"width": 0.0}, "width=0.0 must be above 0"),
        ("small", {"padding": "same"}, "padding='same' is not one of symmetric, tf_same"),
        ("small", {"nonlinearity": "gelu"}, "nonlinearity='gelu' is not one of paper, relu"),
        ("small", {"activations": {"features.3": "gelu"}}, "activation 'gelu' of features.3"),
        ("small", {"activations": {"features.99": "relu"}}, "no activation site 'features.99'"),
        ("v2", {"activations": {"classifier": "relu"}}, "no activation site 'classifier'"),
        ("small", {"num_classes": 0}, "num_classes=0 must be at least 1"),
    ],
)
def test_bad_options_are_named(name: str, options: ModelOptions, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, **options)
