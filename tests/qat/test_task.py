"""The task's schedule and losses, BatchNorm taken anew, and what the float parent teaches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_qat_model import calibrated, images, spec, tiny

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.errors import PrepareError
from qmnv3.qat.config import DistillationConfig, FormsConfig, QatScheduleConfig
from qmnv3.qat.distillation import Teacher, feature_loss
from qmnv3.qat.model import QatModel
from qmnv3.qat.task import QatTask, reestimate_batch_norm

LABELS = torch.arange(8) % 10


def task(model: QatModel, teacher: Teacher | None = None, **changes: object) -> QatTask:
    options = {"schedule": QatScheduleConfig(), "distillation": DistillationConfig(), "labelled": True}
    options |= {"teacher": teacher} | changes
    return QatTask(model, **options)  # type: ignore[arg-type]


def test_the_schedule_follows_from_the_step_alone() -> None:
    schedule = QatScheduleConfig(
        quantize_after=0.2, freeze_batch_norm_after=0.5, freeze_ranges_after=0.8, damping=2.0
    )
    phases = {
        0: (False, False, True),
        20: (True, False, True),
        50: (True, True, True),
        80: (True, True, False),
    }
    for step, phase in phases.items():
        model = QatModel(calibrated(tiny(), 32).model, FormsConfig())
        task(model, schedule=schedule).before_step(step, 100)
        layer = next(model.layers())
        learning = [p.requires_grad for name, p in model.named_parameters() if name.endswith("log_high")]
        assert (layer.output.quantizes, layer.folds, all(learning)) == phase
        assert any(learning) == phase[2]
        expected = 2.0 * (1 - torch.cos(torch.tensor(torch.pi * step / 100))) / 2
        assert layer.weight_range.damping == pytest.approx(float(expected))


def test_labels_and_parent_share_the_loss_as_asked() -> None:
    calibration = calibrated(tiny(), 32)
    model = QatModel(calibration.model, FormsConfig()).eval()
    model.quantize(True)
    x = images(8, 32)
    teacher = Teacher(copy.deepcopy(calibration.parent))
    with torch.no_grad():
        logits, taught = model(x), calibration.parent(x)
        labels = F.cross_entropy(logits, LABELS)
        kl = F.kl_div(logits.log_softmax(1), taught.softmax(1), reduction="batchmean")
        for weight, expected in ((0.0, labels), (1.0, kl), (0.25, 0.75 * labels + 0.25 * kl)):
            given = DistillationConfig(weight=weight)
            loss, _ = task(model, teacher, distillation=given).loss(x, LABELS)
            torch.testing.assert_close(loss, expected)
        unlabelled, _ = task(model, teacher, labelled=False).loss(x, torch.full((8,), -1))
        torch.testing.assert_close(unlabelled, kl)


def test_features_are_compared_in_the_float_models_units() -> None:
    """The equalized, unrounded model has the float model's features."""
    calibration = calibrated(tiny(), 32, level=2)
    sites = ("stem.0", "add")
    model = QatModel(calibration.model, FormsConfig()).eval()
    assert any(
        output.factors is not None for output in calibration.model.modules() if hasattr(output, "factors")
    )
    model.quantize(False)
    x = images(8, 32)
    lesson = Teacher(copy.deepcopy(calibration.parent), sites)(x)
    with torch.no_grad():
        _, found = model.features(x, sites)
    assert feature_loss(found["stem.0"], lesson.features["stem.0"]) < 1e-8
    assert float(feature_loss(2 * lesson.features["add"], lesson.features["add"])) == pytest.approx(1.0)
    with pytest.raises(PrepareError, match="no site 'nowhere'"):
        Teacher(copy.deepcopy(calibration.parent), ("nowhere",))


def test_statistics_taken_anew_are_the_means_over_the_batches() -> None:
    calibration = calibrated(tiny(), 32)
    model = QatModel(calibration.model, FormsConfig())
    model.freeze_batch_norm()
    batches = [images(8, 32, seed) for seed in (1, 2, 3)]
    reestimate_batch_norm(model, batches)
    layer = next(model.layers())
    with torch.no_grad():
        raw = [F.conv2d(batch, layer.weight, None, 2, 1) for batch in batches]
    expected = torch.stack([maps.mean((0, 2, 3)) for maps in raw]).mean(0)
    torch.testing.assert_close(layer.norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert layer.folds and layer.norm.momentum == 0.1


def test_statistics_taken_anew_are_of_the_rounded_weights() -> None:
    """One scale for a whole weight is that of the folded weight, and stays the one before."""
    batch = images(16, 32).permute(0, 2, 3, 1).numpy()
    config = PtqConfig.model_validate({"level": 0, "images": 16, "weights": {"granularity": "per_tensor"}})
    calibration = calibrate(tiny(), spec(32), lambda: iter([batch]), config)
    model = QatModel(calibration.model, FormsConfig())
    model.quantize(True)
    layer = next(model.layers())
    factor = layer.norm.weight * torch.rsqrt(layer.norm.running_var + layer.norm.eps)
    rounded = (layer.folded()[0] / factor.reshape(-1, 1, 1, 1)).detach()
    step = float(next(model.outputs()).grid.qparams.scale)
    x = (images(8, 32, seed=1) / step).round() * step
    reestimate_batch_norm(model, [x])
    with torch.no_grad():
        expected = F.conv2d(x, rounded, None, 2, 1).mean((0, 2, 3))
    torch.testing.assert_close(layer.norm.running_mean, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_damped_once_a_step_however_many_batches_make_it() -> None:
    """Two halves of the loss on the same images have the gradients of the whole."""
    gradients = []
    for accumulate in (1, 2):
        model = QatModel(calibrated(tiny(), 32).model, FormsConfig())
        given = task(model, schedule=QatScheduleConfig(damping=5.0), accumulate=accumulate)
        given.before_step(60, 100)
        for _ in range(accumulate):
            loss, _ = given.loss(images(8, 32), LABELS)
            (loss / accumulate).backward()
        gradients.append(next(model.layers()).weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_averages_observe_before_rounding_starts() -> None:
    """With all the weight on the newest batch: the ends of the float model's tensors."""
    calibration = calibrated(tiny(), 32)
    model = QatModel(calibration.model, FormsConfig(activations="moving_average", momentum=0.0)).train()
    given = task(model, schedule=QatScheduleConfig(quantize_after=0.5, freeze_batch_norm_after=0.0))
    given.before_step(0, 100)
    x = images(8, 32, seed=5)
    sites = ("stem.0", "add")
    given.loss(2 * x, LABELS)
    given.after_step()
    lesson = Teacher(copy.deepcopy(calibration.parent), sites)(2 * x)
    steps = dict(model.named_steps())
    for site in sites:
        grid, seen = steps[site].output.grid, lesson.features[site]
        assert float(grid.high) == pytest.approx(float(seen.max()), rel=1e-4)
        floor = steps[site].output.floor
        low = float(seen.min()) if floor is None else max(float(floor.max()), float(seen.min()))
        assert float(grid.low) == pytest.approx(low, rel=1e-4, abs=1e-6)
