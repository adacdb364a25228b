"""Everything that calibration may change in a layer or a site, as named tensors and back."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import fx

from qmnv3.errors import PrepareError
from qmnv3.ir import QParams
from qmnv3.quant.fake_quant import FakeQuantize, QuantHardswish, QuantWeight

State = dict[str, torch.Tensor]


def layer_state(name: str, module: QuantWeight) -> State:
    """Copies of weight, bias and frozen grid of a layer, keys starting with its `name`."""
    state = {f"{name}.weight": module.layer.weight.detach().clone()}
    if module.layer.bias is not None:
        state[f"{name}.bias"] = module.layer.bias.detach().clone()
    if module.weight_fake_quant.frozen is not None:
        state |= _grid(f"{name}.weight_grid", module.weight_fake_quant.frozen)
    return state


def grid_state(name: str, module: FakeQuantize) -> State:
    """The site's grid, keys starting with `name`."""
    return {} if module.qparams is None else _grid(f"{name}.grid", module.qparams)


@torch.no_grad()
def restore_layer(name: str, module: QuantWeight, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `layer_state` gave."""
    module.layer.weight.copy_(state[f"{name}.weight"])
    bias = state.get(f"{name}.bias")
    if bias is None:
        module.layer.bias = None
    elif module.layer.bias is None:
        module.layer.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
    else:
        module.layer.bias.copy_(bias)
    module.weight_fake_quant.frozen = _qparams(f"{name}.weight_grid", state)


def restore_grid(name: str, module: FakeQuantize, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `grid_state` gave."""
    module.qparams = _qparams(f"{name}.grid", state)


def _grid(key: str, qparams: QParams) -> State:
    ends = np.array([qparams.qmin, qparams.qmax, -1 if qparams.axis is None else qparams.axis])
    return {
        f"{key}.scale": torch.from_numpy(qparams.scale.copy()),
        f"{key}.zero_point": torch.from_numpy(qparams.zero_point.copy()),
        f"{key}.ends_and_axis": torch.from_numpy(ends),
    }


def _qparams(key: str, state: Mapping[str, torch.Tensor]) -> QParams | None:
    if f"{key}.scale" not in state:
        return None
    qmin, qmax, axis = (int(value) for value in state[f"{key}.ends_and_axis"])
    scale, zero_point = state[f"{key}.scale"].numpy(), state[f"{key}.zero_point"].numpy()
    return QParams(scale, zero_point, qmin, qmax, None if axis < 0 else axis)


def model_state(prepared: fx.GraphModule) -> State:
    """All that calibration changed in a prepared model: weights, biases, grids, equalization."""
    state: State = {}
    for name, module in prepared.named_modules():
        if isinstance(module, QuantWeight):
            state |= layer_state(name, module)
        elif isinstance(module, FakeQuantize):
            state |= grid_state(name, module)
        if isinstance(module, FakeQuantize | QuantHardswish) and module.factors is not None:
            state[f"{name}.factors"] = module.factors.clone()
    return {key: tensor.contiguous() for key, tensor in state.items()}


def restore_model(prepared: fx.GraphModule, state: Mapping[str, torch.Tensor]) -> None:
    """Put back what `model_state` gave, into a model prepared alike.

    PrepareError naming the first layer or tensor that is not the same.
    """
    for name, module in prepared.named_modules():
        try:
            if isinstance(module, QuantWeight):
                restore_layer(name, module, state)
            elif isinstance(module, FakeQuantize):
                restore_grid(name, module, state)
        except (KeyError, RuntimeError) as error:
            raise PrepareError(f"{name}: is not in the calibrated model, or of another shape") from error
        if isinstance(module, FakeQuantize | QuantHardswish):
            module.factors = state.get(f"{name}.factors")
