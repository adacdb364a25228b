"""Poor calibration sets are told apart from good ones, and are calibrated on all the same."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from quant.nets import TinyNet
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.coverage import coverage_layers, coverage_warnings
from calibration.ptq import Images, calibrate
from calibration.statistics import collect, to_nchw
from device_eval.partitions import delegate_partitions
from qmnv3.data.digits import write_digits
from qmnv3.data.folder import find_images, sample
from qmnv3.data.loader import load_batches
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Metadata
from qmnv3.lowering import lower
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

SPEC = Preprocessing(32, 32)
COUNT = 60
SETS = ("good", "one", "black", "duplicates", "shifted", "faint", "half plain")


def images(count: int = COUNT, seed: int = 0) -> Images:
    """Photos, nearly: smooth blobs in normalised colours, [count, 32, 32, 3]."""
    coarse = torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3, 8, 8), np.float32))
    smooth = nn.functional.interpolate(coarse, size=32, mode="bilinear")
    return smooth.permute(0, 2, 3, 1).contiguous().numpy()


def image_set(name: str) -> Images:
    good = images()
    black = ((0.0 - np.array(SPEC.mean)) / np.array(SPEC.std)).astype(np.float32)
    match name:
        case "one":
            return good[:1]
        case "black":
            return np.zeros_like(good) + black
        case "duplicates":
            return np.repeat(good[:1], COUNT, 0)
        case "shifted":
            return good + 4.0
        case "faint":
            return good * 0.1
        case "grey":  # normalised by a mean and std of each channel
            grey = np.repeat(good[..., :1], 3, axis=3)
            return (grey * np.array([1.0, 0.9, 1.1]) + np.array([0.1, 0.0, -0.1])).astype(np.float32)
        case "half grey":
            return np.concatenate([image_set("grey")[: COUNT // 2], good[COUNT // 2 :]])
        case "half plain":
            return np.concatenate([good, np.zeros_like(good) + black])
    return good


@torch.no_grad()
def learn(model: nn.Module) -> None:
    """Let BatchNorms see images like the good ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.reset_running_stats()
    for seed in range(8):
        model.train()(to_nchw(images(seed=100 + seed)))
    model.eval()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network whose BatchNorms know images like the good ones, by torch's own running statistics."""
    torch.manual_seed(0)
    model = TinyNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    learn(model)
    return model


def warnings(prepared: fx.GraphModule, given: Images) -> str:
    statistics = collect(
        prepared, lambda: np.array_split(given, max(len(given) // 20, 1)), frozenset({"channels"})
    )
    return "\n".join(coverage_warnings(statistics.image_set, coverage_layers(prepared, statistics)))


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("good", []),
        ("one", ["no more than 1 different", "give 200"]),
        (
            "black",
            [f"{COUNT} of {COUNT} show one plain colour", "only 1 of 60 differ", "never vary", "domain: "],
        ),
        ("duplicates", [f"only 1 of {COUNT} differ", "no more than 1 different"]),
        ("shifted", ["domain: the mean of"]),
        ("faint", ["vary less than half as much"]),
        ("grey", [f"{COUNT} of {COUNT} are grey"]),
        ("half grey", []),
        ("half plain", [f"only {COUNT + 1} of {2 * COUNT} differ", f"{COUNT} of {2 * COUNT} show one plain"]),
    ],
)
def test_each_fault_is_named(trained: nn.Module, name: str, texts: list[str]) -> None:
    found = warnings(prepare(trained, SPEC), image_set(name))
    assert all(text in found for text in texts), found
    assert bool(texts) == bool(found), found


def test_the_layer_whose_channels_never_vary_is_named(trained: nn.Module) -> None:
    """Weights of 0 behind a BatchNorm that saw them vary."""
    model = copy.deepcopy(trained)
    dead = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels >= 8)
    dead.weight.data[:5] = 0.0
    prepared = prepare(model, SPEC)
    statistics = collect(prepared, lambda: [images()], frozenset({"channels"}))
    rows = {row.layer: row for row in coverage_layers(prepared, statistics)}
    name = next(n for n, m in model.named_modules() if m is dead)
    assert (rows[name].dead, rows[name].narrow, rows[name].channels) == (5, 5, dead.out_channels)
    assert f"{name} 5 of {dead.out_channels}" in "\n".join(
        coverage_warnings(statistics.image_set, tuple(rows.values()))
    )


def test_untrained_batch_norms_promise_nothing() -> None:
    assert warnings(prepare(TinyNet().eval(), SPEC), images()) == ""


def test_dead_channels_that_batch_norm_expects_are_no_fault(trained: nn.Module) -> None:
    """Most channels of a layer never pass their ReLU, in training either."""
    model = copy.deepcopy(trained)
    model.depthwise[1].bias.data[:20] = -20.0
    learn(model)
    assert warnings(prepare(model, SPEC), images()) == ""


@pytest.mark.parametrize("name", [name for name in SETS if name != "good"])
def test_poor_sets_give_a_working_network(trained: nn.Module, name: str, tmp_path: Path) -> None:
    given = image_set(name)
    result = calibrate(
        trained, SPEC, lambda: np.array_split(given, max(len(given) // 20, 1)), PtqConfig(level=3)
    )
    assert result.coverage
    assert result.to_json()["coverage"] == list(result.coverage)
    for site in read_sites(result.model):
        assert site.fake_quant.qparams is not None
        assert np.isfinite(site.fake_quant.qparams.scale)
        assert site.layer is None or torch.isfinite(site.layer.weight).all()
        assert site.layer is None or torch.isfinite(site.layer.bias).all()
    path = tmp_path / "model.tflite"
    write_tflite(lower(convert(result.model, Metadata("tiny", SPEC)), "xnnpack"), path)
    partitions = delegate_partitions(path)
    assert partitions.refused is None
    assert partitions.count == 1
    assert not partitions.undelegated


NETWORKS = {"small": "v3_small_imagenet", "v2": "v2_imagenet"}


@pytest.fixture(scope="module", params=NETWORKS)
def real(request: pytest.FixtureRequest, data_pack: Path) -> LoadedModel:
    return load_model(request.param, data_pack / f"weights/{NETWORKS[request.param]}.safetensors")


def photos(loaded: LoadedModel, folder: Path, count: int) -> Images:
    found = find_images(folder, classes=False)
    batches = load_batches(found, loaded.preprocessing, 10, indices=sample(found, count, 0))
    return np.concatenate([batch.images for batch in batches])


def test_real_photos_give_no_warning(real: LoadedModel, data_pack: Path) -> None:
    prepared = prepare(real.model, real.preprocessing)
    assert warnings(prepared, photos(real, data_pack / "imagenet/calib", 50)) == ""


def test_digits_are_another_domain(real: LoadedModel, tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    found = warnings(prepare(real.model, real.preprocessing), photos(real, tmp_path / "digits/train", 10))
    assert "domain: " in found


def test_one_photo_is_too_few_but_of_the_domain(real: LoadedModel, data_pack: Path) -> None:
    given = photos(real, data_pack / "imagenet/calib", 1)
    found = warnings(prepare(real.model, real.preprocessing), given)
    assert "no more than 1 different" in found
    assert "never vary" in found
    assert "domain: " not in found
