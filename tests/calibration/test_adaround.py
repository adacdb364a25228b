"""Adaptive rounding against brute force, and the output error it promises to lower."""

import itertools

import numpy as np
import pytest
import torch
from quant.nets import unit_logits

from calibration.config import PtqConfig
from calibration.ptq import Calibration, calibrate
from calibration.rounding import round_adaptively
from calibration.statistics import to_nchw
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import fake_quant

SPEC = Preprocessing(32, 32)
# Solving the integer problem exactly is exponential; the mean loss to the optimum that was seen is 3 %.
NEAR_OPTIMAL = 1.1


def problem(rows: int, inputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random targets, and the covariance of inputs that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, 50, 1, generator=generator, dtype=torch.float64)
    x = torch.randn(1, 50, inputs, generator=generator, dtype=torch.float64) + common
    target = 2.0 * torch.randn(1, rows, inputs, generator=generator, dtype=torch.float64)
    return target, x.mT @ x / 50.0


def cost(integers: torch.Tensor, target: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    return torch.einsum("gri,gij,grj->gr", integers - target, form, integers - target)


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_nearly_as_good_as_brute_force(seed: int) -> None:
    target, form = problem(100, 6, seed)
    down = target.floor()
    tried = [(down + torch.tensor(up)).clamp(-7, 7) for up in itertools.product((-1, 0, 1, 2), repeat=6)]
    optimal = torch.stack([cost(candidate, target, form) for candidate in tried]).amin(0)
    found = cost(round_adaptively(target, form, -7, 7), target, form)
    nearest = cost(target.round().clamp(-7, 7), target, form)
    assert float(found.mean()) <= NEAR_OPTIMAL * float(optimal.mean())
    assert (found <= nearest).all() and float(found.mean()) < 0.8 * float(nearest.mean())


def test_many_inputs_in_groups_stay_on_the_grid_and_beat_nearest() -> None:
    target, form = problem(5, 150, 0)
    form = form + 0.1 * torch.eye(150, dtype=torch.float64)  # 50 samples span no more than 50 directions
    target, form = torch.cat([target, 3.0 * target]), torch.cat([form, 2.0 * form])
    found = round_adaptively(target, form, -7, 7)
    assert torch.equal(found, found.round().clamp(-7, 7))
    assert (cost(found, target, form) < cost(target.round().clamp(-7, 7), target, form)).all()


def images(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    smooth = generator.uniform(-2, 2, (count, 8, 8, 3)).astype(np.float32)
    return np.kron(smooth, np.ones((1, 4, 4, 1), np.float32))


def error(result: Calibration, seed: int = 9) -> float:
    """Mean squared error of the logits on images that nothing was calibrated on."""
    x = to_nchw(images(64, seed))
    with torch.inference_mode(), fake_quant(result.model):
        quantized = result.model(x)
    with torch.inference_mode():
        return float((quantized - result.parent(x)).square().mean())


def test_four_bit_weights_lose_less_than_with_nearest_rounding() -> None:
    def run(level: int) -> Calibration:
        recipe = PtqConfig.model_validate({"level": level, "weights": {"bits": 4}})
        batches = [images(16, seed) for seed in range(4)]
        return calibrate(unit_logits(to_nchw(images(64, 0))), SPEC, lambda: batches, recipe)

    assert error(run(4)) < 0.8 * error(run(3))
