"""Which operations of a quantized PyTorch program count as float."""

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn

from benchmarks.torch_runner import float_operations

GRID = (0.1, 0, -128, 127, torch.int8)


def through_int8(x: Tensor) -> Tensor:
    operations = torch.ops.quantized_decomposed
    return operations.dequantize_per_tensor(operations.quantize_per_tensor(x, *GRID), *GRID)


class Net(nn.Module):
    """Convolution, ReLU, h-swish; int8 between all of them or at the input only."""

    def __init__(self, everywhere: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.between = through_int8 if everywhere else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        x = self.between(torch.relu(self.conv(through_int8(image))))
        return nn.functional.hardswish(x).flatten(1)


def operations_of(net: nn.Module) -> dict[str, int]:
    return float_operations(torch.export.export(net.eval(), (torch.zeros(1, 3, 4, 4),)))


def test_operations_between_dequantize_and_quantize_are_not_float() -> None:
    assert operations_of(Net(everywhere=True)) == {}


def test_an_operation_on_an_operations_result_is_float_clamps_aside() -> None:
    assert operations_of(Net(everywhere=False)) == {"hardswish": 1}


def test_a_float_network_is_float_from_its_first_operation_on() -> None:
    net = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 3, 1), nn.Hardswish())
    assert operations_of(net) == {"conv2d": 1, "hardswish": 1}
