"""A frozen model that XNNPACK refuses. What files compute is in test_qat_cli.py."""

import numpy as np
import pytest
from torch import nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.cli.deployed import deployed
from qmnv3.errors import ExportError
from qmnv3.ir import Metadata
from qmnv3.preprocessing import Preprocessing


def test_a_convolution_that_xnnpack_refuses_is_named_without_the_temporary_file() -> None:
    """Its steps are thousands of those of the hard-sigmoid, which is fixed: XNNPACK takes less than 256."""
    layer = nn.Conv2d(3, 4, 1)
    nn.init.constant_(layer.weight, 1e6)
    model = nn.Sequential(layer, nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    spec = Preprocessing(32, 36, (0.5,) * 3, (0.5,) * 3)
    frozen = calibrate(model.eval(), spec, lambda: [images], PtqConfig(level=0)).model
    with pytest.raises(ExportError) as found:
        deployed(frozen, Metadata("tiny", spec))
    text = str(found.value)
    assert text.startswith("model tiny, as int8 file: LiteRT's xnnpack kernels refuse it (")
    assert text.endswith("); train slower, or calibrate on other images")
