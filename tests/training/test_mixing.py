"""Mixup and CutMix, against the images they were made from."""

import pytest
import torch
import torch.nn.functional as F

from qmnv3.training.config import MixingConfig
from qmnv3.training.mixing import mix, random_box

LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16)


def test_off_leaves_images_alone(images: torch.Tensor) -> None:
    mixed = mix(images, LABELS, MixingConfig())
    assert mixed.images is images and mixed.share == 1.0
    logits = torch.randn(4, 5)
    assert torch.equal(mixed.cross_entropy(logits, 0.1), F.cross_entropy(logits, LABELS, label_smoothing=0.1))


def test_mixup_fades(images: torch.Tensor) -> None:
    mixed = mix(images, LABELS, MixingConfig(mixup=1.0))
    assert 0 < mixed.share < 1
    for i in range(4):
        expected = mixed.share * images[i] + (1 - mixed.share) * images[3 - i]
        assert torch.allclose(mixed.images[i], expected, atol=1e-6)
    assert mixed.labels.tolist() == [0, 1, 2, 3] and mixed.other.tolist() == [3, 2, 1, 0]


def test_cutmix_pastes_a_box_and_counts_its_pixels(images: torch.Tensor) -> None:
    before = images.clone()
    for _ in range(20):
        mixed = mix(images, LABELS, MixingConfig(cutmix=1.0))
        own = (mixed.images == images).all(1)
        pasted = (mixed.images == images.flip(0)).all(1)
        assert (own ^ pasted).all()
        assert torch.equal(own.float().mean((1, 2)), torch.full((4,), mixed.share))
        rows, columns = pasted[0].any(1), pasted[0].any(0)
        assert torch.equal(pasted[0], rows[:, None] & columns[None])
    assert torch.equal(images, before)


def test_both_take_turns(images: torch.Tensor) -> None:
    config = MixingConfig(mixup=1.0, cutmix=1.0)
    faded = [bool((mix(images, LABELS, config).images[0] != images[0]).all()) for _ in range(40)]
    assert 5 < sum(faded) < 35


def test_loss_is_that_of_soft_labels(images: torch.Tensor) -> None:
    logits = torch.randn(4, 5)
    mixed = mix(images, LABELS, MixingConfig(mixup=0.8))
    soft = mixed.share * F.one_hot(LABELS, 5) + (1 - mixed.share) * F.one_hot(LABELS.flip(0), 5)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.1)
    assert torch.allclose(mixed.cross_entropy(logits, 0.1), expected)


def test_unlabelled_images_are_mixed_too(images: torch.Tensor) -> None:
    mixed = mix(images, torch.empty(0, dtype=torch.int64), MixingConfig(mixup=1.0))
    assert not torch.equal(mixed.images, images) and mixed.other.numel() == 0


def test_boxes_have_their_area_and_stay_inside() -> None:
    whole = 0
    for _ in range(200):
        top, bottom, left, right = random_box(32, 64, 0.25)
        assert 0 <= top < bottom <= 32 and 0 <= left < right <= 64
        whole += (bottom - top, right - left) == (16, 32)
    assert whole > 20  # a quarter of the centres is far enough from all edges
