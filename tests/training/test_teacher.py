"""What a teacher sees and says, and its share of the loss."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qmnv3.preprocessing import Preprocessing
from qmnv3.training.config import MixingConfig, TeachingConfig
from qmnv3.training.task import ClassificationTask
from qmnv3.training.teacher import Teacher, logits_loss

UNIT = Preprocessing(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
TORCHVISION = Preprocessing(8, 8)


class Means(nn.Module):
    """Four classes: each channel's mean, and their sum."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return torch.cat([means, means.sum(1, keepdim=True)], 1)


def test_a_teacher_sees_images_normalised_as_it_was_trained() -> None:
    pixels = torch.rand(5, 3, 8, 8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (TORCHVISION.mean, TORCHVISION.std))
    seen = Teacher(Means(), (0, 1, 2), TORCHVISION, UNIT)((pixels - mean) / std)
    torch.testing.assert_close(seen, pixels.mean((2, 3)))
    seen = Teacher(Means(), (0, 1, 2), UNIT, TORCHVISION)(pixels)
    torch.testing.assert_close(seen, ((pixels - mean) / std).mean((2, 3)))


def test_a_teacher_says_the_students_classes_in_their_order() -> None:
    pixels = torch.rand(5, 3, 8, 8)
    means = pixels.mean((2, 3))
    said = Teacher(Means(), (3, 1), UNIT, UNIT)(pixels)
    torch.testing.assert_close(said, torch.stack([means.sum(1), means[:, 1]], 1))


def test_a_teacher_learns_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 8), nn.BatchNorm2d(2), nn.Flatten()).train()
    teacher, student = Teacher(model, (0, 1), UNIT, UNIT), nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = ClassificationTask(student, teacher=teacher, teaching=TeachingConfig(weight=1.0))
    loss, _ = task.loss(torch.rand(6, 3, 8, 8), torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_labels_and_teacher_share_the_loss(weight: float) -> None:
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    teacher = Teacher(Means(), (0, 1, 2), UNIT, UNIT)
    teaching = TeachingConfig(weight=weight, temperature=2.0)
    task = ClassificationTask(student, 0.1, MixingConfig(), teacher=teacher, teaching=teaching)
    loss, logits = task.loss(images, labels)
    own = F.cross_entropy(logits, labels, label_smoothing=0.1)
    target = (images.mean((2, 3)) / 2).softmax(1)
    taught = 4 * F.kl_div((logits / 2).log_softmax(1), target, reduction="batchmean")
    torch.testing.assert_close(loss, (1 - weight) * own + weight * taught)


def test_a_temperature_keeps_the_gradients_size() -> None:
    """At a high temperature the loss is half the squared difference of centred logits over the classes."""
    ours, theirs = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert float(logits_loss(ours, theirs, 30.0)) == pytest.approx(1 / 3, rel=1e-2)
    assert float(logits_loss(ours, ours, 3.0)) == pytest.approx(0.0, abs=1e-6)
