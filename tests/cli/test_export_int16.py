"""`qmnv3 export` of a RUN with int16 tensors: what they cost is shown, and ONNX refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import user_nets
from cli_command import Finished, assert_refused, untouched

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.ir import Metadata
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.affine import int16_qparams
from qmnv3.quant.convert import convert
from qmnv3.quant.sites import read_sites
from qmnv3.runs import save_run

Cli = Callable[..., Finished]


@pytest.fixture
def mixed_run(tmp_path: Path) -> Path:
    """A RUN of user_nets:tiny with its h-swish after the expansion, input and output, in int16."""
    images = np.random.default_rng(0).uniform(-2, 2, (4, 32, 32, 3)).astype(np.float32)
    frozen = calibrate(
        user_nets.tiny().eval(), Preprocessing(32, 36), lambda: [images], PtqConfig(level=1)
    ).model
    for site in read_sites(frozen):
        if site.name in ("expand.0", "expand.2"):
            site.fake_quant.qparams = int16_qparams(*site.fake_quant.qparams.dequantize([-128, 127]))
    graphs = convert(frozen, Metadata()), convert(frozen, Metadata(), "float32")
    save_run(tmp_path / "RUN", *graphs, {}, {})
    return tmp_path / "RUN"


def test_partitions_are_shown(cli: Cli, mixed_run: Path, tmp_path: Path) -> None:
    given = ("export", "--int8", "--checkpoint", mixed_run, "--out", tmp_path / "out", "--format", "tflite")
    done = cli(*given)
    assert (done.code, done.stdout.splitlines()[1:]) == (
        0,
        ["int16 tensors: 2; XNNPACK partitions: 2 (1 without); 7 operations outside"],
    )
    # HARD_SWISH would be outside XNNPACK with int8 too.
    builtin = cli(*given, "--target", "tflite-builtin")
    assert builtin.stdout.splitlines()[1].startswith("int16 tensors: 2; XNNPACK partitions: ")
    assert "without" not in builtin.stdout


def test_nothing_is_said_without_int16(cli: Cli, run: Path, tmp_path: Path) -> None:
    done = cli("export", "--int8", "--checkpoint", run, "--out", tmp_path / "out")
    assert done.code == 0 and "int16" not in done.stdout


def test_onnx_is_refused(cli: Cli, mixed_run: Path, tmp_path: Path) -> None:
    with untouched(tmp_path):
        done = cli("export", "--int8", "--checkpoint", mixed_run, "--out", tmp_path / "out")
    assert_refused(done, "expand.0: is int16, as are 1 more; ONNX Runtime", "--format tflite")
