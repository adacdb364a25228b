"""What is not finite stops training, is named, and is never saved."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training.training_runs import KillAt, Killed, Noise, config, network, run

from qmnv3.data.order import Position
from qmnv3.errors import TrainingError
from qmnv3.training.checkpoints import Progress, Trained, save_state
from qmnv3.training.config import OptimizerConfig
from qmnv3.training.diagnosis import note_loss
from qmnv3.training.logs import read_log
from qmnv3.training.loop import train
from qmnv3.training.optimizer import make_optimizer
from qmnv3.training.tally import Tally
from qmnv3.training.task import ClassificationTask, Diverged


def assert_all_finite(out: Path) -> None:
    state = load_file(out / "checkpoints" / "last.safetensors")
    assert all(bool(torch.isfinite(t).all()) for t in state.values() if t.is_floating_point())


@pytest.mark.parametrize(("accumulate", "batch", "step"), [(1, 2, 9), (2, 2, 4), (2, 3, 4)])
def test_divergence_names_step_layer_and_a_checkpoint_that_is_whole(
    tmp_path: Path, accumulate: int, batch: int, step: int
) -> None:
    """A NaN in the second epoch, in the first or the second batch of an update."""
    poisoned = Position(1, batch)
    found = rf"step {step}: loss is nan, .* first layer .* not finite: 0; lower the rate .*last\.safetensors"
    with pytest.raises(TrainingError, match=found):
        run(
            tmp_path,
            config(accumulate=accumulate),
            batches=lambda *start: Noise(*start, poisoned),
        )
    assert_all_finite(tmp_path)


class Rooted(nn.Module):
    """Logits gain a root that is zero: they stay finite, their gradients do not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.rooted = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images)
        return logits + (logits - logits).sqrt() if self.rooted else logits


class RootedTask(ClassificationTask):
    def before_step(self, step: int, total: int) -> None:
        self.model.rooted = step == 5


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tmp_path: Path, clip: float | None) -> None:
    settings = config(max_grad_norm=clip)
    found = r"step 5: loss is \d\.\d+, gradient nan; .* whose gradient is not finite: net.5.bias; .*last"
    with pytest.raises(TrainingError, match=found):
        train(RootedTask(Rooted()), Noise, settings, tmp_path, recipe={})
    assert_all_finite(tmp_path)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 5


def test_weights_that_overflowed_are_not_saved(tmp_path: Path) -> None:
    model = network()
    optimizer = make_optimizer(model, OptimizerConfig(), effective_batch=8)
    path = tmp_path / "last.safetensors"
    save_state(path, Trained(model, optimizer, None, Progress(), {}))
    before = path.read_bytes()
    nn.init.constant_(model[1].weight, float("inf"))
    with pytest.raises(TrainingError, match=r"step 3: model.1.weight is not finite; lower the rate .*last"):
        save_state(path, Trained(model, optimizer, None, Progress(step=3), {}))
    assert path.read_bytes() == before


class BrokenTask(ClassificationTask):
    """After its sixth update it has something that is of no use any more."""

    updates = 0

    def after_step(self) -> None:
        self.updates += 1
        if self.updates == 6:
            raise Diverged("the range of stem is no longer one")


def test_what_a_task_finds_broken_is_named_with_step_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"step 5: the range of stem is no longer one; lower .*last\.safe"
    ):
        train(BrokenTask(network()), Noise, config(), tmp_path, recipe={})
    assert_all_finite(tmp_path)


class Steep(nn.Module):
    """Two weights; the gradients of the second are finite, their norm overflows float32."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.steep = (nn.Parameter(torch.zeros(3)) for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.flat + 3e38 * self.steep).expand(len(images), 3)


class SumTask(ClassificationTask):
    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(images)
        return logits[0].sum(), logits


def test_a_norm_that_overflows_names_the_largest_gradient(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"step 0: loss is 0, gradient inf; .* largest gradient is steep's"
    ):
        train(SumTask(Steep()), Noise, config(), tmp_path, recipe={})


class ExplodingTask(ClassificationTask):
    """The loss is a thousandfold from step 5 on; with `once` in one step only."""

    def __init__(self, model: nn.Module, once: bool) -> None:
        super().__init__(model)
        self.once, self.factor = once, 1.0

    def before_step(self, step: int, total: int) -> None:
        self.factor = 1000.0 if step == 5 or (step > 5 and not self.once) else 1.0

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = super().loss(images, labels)
        return self.factor * (loss.detach() + 1.0) + 1e-6 * loss, logits


def test_a_loss_that_stays_far_above_its_beginning_ends_the_run(tmp_path: Path) -> None:
    """Steps 5 to 104 are the hundred; a training that was resumed within them counts on."""
    settings = config(epochs=20)
    with pytest.raises(Killed):
        train(ExplodingTask(network(), False), Noise, settings, tmp_path, recipe={}, reporter=KillAt(50))
    with pytest.raises(TrainingError, match=r"step 104: loss is \d+.* for 100 steps was above .*last"):
        train(ExplodingTask(network(), False), Noise, settings, tmp_path, recipe={}, resume=True)
    train(ExplodingTask(network(), True), Noise, settings, tmp_path / "once", recipe={})


def updates_until_diverged(losses: Iterable[float], classes: int) -> int | None:
    """How many updates with these losses there are when training is stopped; None where it is not."""
    progress = Progress()
    for count, loss in enumerate(losses, 1):
        try:
            note_loss(progress, Tally(loss=float(loss), classes=classes))
        except Diverged:
            return count
    return None


@pytest.mark.parametrize(
    ("before", "after", "classes"),
    [(0.4, 2.302, 10), (2.5, 6.907, 1000), (0.03, 5.0, 1000), (0.03, 20, 1000)],
)
def test_a_collapse_after_something_was_learned_ends_the_run_after_100_updates(
    before: float, after: float, classes: int
) -> None:
    """Cross-entropy back to guessing; a pure distillation that loses its teacher."""
    assert updates_until_diverged([before] * 20 + [after] * 200, classes) == 120
    assert updates_until_diverged(([before] * 20 + [after] * 99) * 3, classes) is None


def test_healthy_losses_do_not_end_a_run() -> None:
    """From scratch with a bad start; fine-tuning that first undoes some; mixing; late rounding."""
    generator = np.random.default_rng(0)

    def noisy(losses: npt.NDArray[np.float64]) -> Iterable[float]:
        return (losses * generator.lognormal(0, 0.3, len(losses))).tolist()

    steps = np.arange(3000)
    plateau = np.full(3000, math.log(1000))
    learning = 0.8 + 6.1 * np.exp(-steps / 500)
    bad_start = learning + 30 * np.exp(-steps / 40)
    undone = 0.2 + 0.8 * np.exp(-(((steps - 400) / 200) ** 2))
    mixed = np.where(steps % 2, 1.9, 1.2)
    quantized_late = np.where(steps < 600, 1e-6, 0.3)
    for losses, classes in (
        (plateau, 1000),
        (learning, 1000),
        (bad_start, 1000),
        (undone, 10),
        (mixed, 10),
        (quantized_late, 10),
    ):
        assert updates_until_diverged(noisy(losses), classes) is None
