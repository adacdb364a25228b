"""Checkpoints in torchvision's and timm's naming: loaded to the same outputs, or refused by name."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qmnv3.errors import ModelError, WeightsError
from qmnv3.models.checkpoint import load_checkpoint, save_checkpoint
from qmnv3.models.network import MobileNet, build_model
from qmnv3.models.weights import LoadedModel, load_model
from qmnv3.preprocessing import Preprocessing

KEYS = Path(__file__).parent / "keys"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _randomised(name: str, **options: object) -> MobileNet:
    """A model whose every tensor matters to its output, BatchNorm statistics too."""
    model = build_model(name, **options).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


def _logits(model: nn.Module, side: int = 64) -> Tensor:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y: Tensor = model(x)
    return y


def _timm_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` under timm's keys, from the list of keys that timm itself has."""
    lines = (KEYS / f"{name}.txt").read_text().splitlines()[1:]
    translated = {}
    for torchvision_key, timm_key in (line.split() for line in lines):
        tensor = state[torchvision_key]
        is_head = timm_key == "conv_head.weight" and tensor.ndim == 2
        translated[timm_key] = tensor[:, :, None, None] if is_head else tensor
    return translated


def _accuracy(loaded: LoadedModel, pack: Path, images: int = 65) -> float:
    """Top-1 on every tenth of the pack's 227-pixel validation images, centre-cropped."""
    wnids: list[str] = sorted(json.loads((pack / "imagenet/classes.json").read_text()))
    files = sorted((pack / "imagenet/val").glob("*/*"))[::10][:images]
    spec = loaded.preprocessing
    mean, std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
    batch = np.stack([np.asarray(Image.open(f).convert("RGB").crop((1, 1, 225, 225))) for f in files])
    x = torch.from_numpy((batch.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        predicted = loaded.model(x).argmax(1).tolist()
    hits: list[bool] = [wnids[p] == f.parent.name for p, f in zip(predicted, files, strict=True)]
    return sum(hits) / len(hits)


@pytest.mark.parametrize(
    ("name", "file", "padding"),
    [
        ("small", "v3_small_imagenet.safetensors", "tf_same"),
        ("v2", "v2_imagenet.safetensors", "symmetric"),
    ],
)
def test_pack_weights_predict(data_pack: Path, name: str, file: str, padding: str) -> None:
    loaded = load_model(name, data_pack / "weights" / file)
    assert isinstance(loaded.model, MobileNet)
    assert loaded.model.config.padding == padding
    # Small: 79.7 % on all 650; a wrong padding, eps or mean costs ten points and more.
    assert _accuracy(loaded, data_pack) > 0.72


def test_metadata_of_the_pack_is_honoured(data_pack: Path) -> None:
    loaded = load_model("small", data_pack / "weights/v3_small_imagenet.safetensors")
    assert isinstance(loaded.model, MobileNet)
    assert loaded.preprocessing == Preprocessing(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (loaded.model.config.head_width, loaded.model.config.bn_eps) == (1024, 1e-3)


@pytest.mark.parametrize("name", ["large", "small", "v2"])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_torch_file_gives_the_same_outputs(tmp_path: Path, name: str, container: str | None) -> None:
    model = _randomised(name, padding="symmetric")
    state: dict[str, object] = dict(model.state_dict())
    path = tmp_path / "weights.pth"
    torch.save({container: state, "epoch": 3} if container else state, path)
    assert torch.equal(_logits(load_model(name, path).model), _logits(model))


@pytest.mark.parametrize("name", ["large", "small", "v2"])
def test_timm_naming_gives_the_same_outputs(tmp_path: Path, name: str) -> None:
    model = _randomised(name, padding="symmetric", bn_eps=1e-5)
    path = tmp_path / "timm.safetensors"
    state = {key: tensor.contiguous() for key, tensor in _timm_state(name, model.state_dict()).items()}
    save_file(state, path, {"format": "pt"})
    loaded = load_model(name, path)
    assert torch.equal(_logits(loaded.model), _logits(model))
    assert loaded.preprocessing.interpolation == "bicubic"


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.25])
@pytest.mark.parametrize("name", ["large", "small_minimalistic", "v2"])
def test_shapes_tell_width_head_and_classes(tmp_path: Path, name: str, width: float) -> None:
    model = _randomised(name, width=width, num_classes=7, padding="symmetric")
    path = tmp_path / "narrow.pth"
    torch.save(model.state_dict(), path)
    loaded = load_model(name, path).model
    assert isinstance(loaded, MobileNet)
    assert (loaded.config.width, loaded.config.num_classes) == (width, 7)
    assert torch.equal(_logits(loaded), _logits(model))


def test_saved_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    model = _randomised(
        "small",
        width=0.5,
        num_classes=10,
        nonlinearity="hswish@40",
        activations={"features.2": "swish"},
        bn_eps=2e-3,
        stem_width=32,
        head_width=96,
    )
    spec = Preprocessing(96, 110, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic")
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, model, spec)
    loaded = load_model("small", path)
    assert isinstance(loaded.model, MobileNet)
    assert loaded.model.config == model.config
    assert loaded.preprocessing == spec
    assert torch.equal(_logits(loaded.model), _logits(model))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_without_metadata_the_naming_convention_decides(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet_v3_large-5c1a4163.pth"
    torch.save(build_model("large").state_dict(), path)
    loaded = load_model("large", path)
    assert isinstance(loaded.model, MobileNet)
    assert (loaded.model.config.padding, loaded.model.config.bn_eps) == ("symmetric", 1e-3)
    # torchvision evaluates this file resized to 232, not 256.
    assert loaded.preprocessing == Preprocessing(224, 232, *IMAGENET)
    corrected = load_model("large", path, metadata={"padding": "tf_same", "resize": "256"})
    assert isinstance(corrected.model, MobileNet)
    assert corrected.model.config.padding == "tf_same"
    assert corrected.preprocessing == Preprocessing(224, 256, *IMAGENET)


def test_other_resolution_keeps_the_crop_ratio() -> None:
    assert load_model("small", resolution=128).preprocessing.resize == round(256 * 128 / 224)


def test_background_class_is_dropped_on_request(tmp_path: Path) -> None:
    model = _randomised("small", num_classes=1001, padding="symmetric")
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    assert torch.equal(_logits(load_model("small", path).model), _logits(model))
    dropped = _logits(load_model("small", path, drop_background=True).model)
    torch.testing.assert_close(dropped, _logits(model)[:, 1:])


def test_background_of_1000_classes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build_model("small").state_dict(), path)
    with pytest.raises(WeightsError, match="has 1000 classes, not 1001"):
        load_model("small", path, drop_background=True)


def test_a_backbone_is_refused_unless_a_new_classifier_is_asked_for(data_pack: Path) -> None:
    path = data_pack / "weights/v3_small_backbone_torchvision.safetensors"
    with pytest.raises(WeightsError, match="is a backbone without classifier"):
        load_model("small", path)
    loaded = load_model("small", path, new_classifier=10).model
    assert _logits(loaded).shape == (2, 10)
    weight = loaded.get_parameter("features.4.block.0.0.weight")
    assert torch.equal(weight, load_file(path)["features.4.block.0.0.weight"])


def test_another_architecture_is_named_with_both_shapes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build_model("v2").state_dict(), path)
    with pytest.raises(
        WeightsError,
        match=r"weights.pth: features.0.0.weight is \[32, 3, 3, 3\], model small needs \[16, 3, 3, 3\]; "
        "the file fits model v2 at width 1.0",
    ):
        load_model("small", path)
    with pytest.raises(WeightsError, match=r"features.1.block.1.fc1.weight is missing, model small needs"):
        torch.save(build_model("small_minimalistic").state_dict(), path)
        load_model("small", path)


def test_an_unknown_layer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**build_model("small").state_dict(), "aux.weight": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"aux.weight is \[3\], model small has no such layer"):
        load_model("small", path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_tensor_with_nan_is_named(tmp_path: Path, bad: float) -> None:
    state = build_model("small").state_dict()
    state["features.5.block.1.0.weight"][3, 0, 0, 0] = bad
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"features.5.block.1.0.weight holds NaN or infinity"):
        load_model("small", path)


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    marker, zipped, plain = tmp_path / "ran", tmp_path / "zip.pth", tmp_path / "plain.pth"
    evil = {"weight": _Malicious(f"touch {marker}")}
    torch.save(evil, zipped)
    plain.write_bytes(pickle.dumps(evil))
    with pytest.raises(WeightsError, match=r"zip.pth: refused, unpickling it would run posix.system;"):
        load_checkpoint(zipped)
    with pytest.raises(WeightsError, match=r"plain.pth: refused, unpickling it would run") as caught:
        load_checkpoint(plain)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"would run torch.nn.modules.linear.Linear; save the state dict"):
        load_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 1000])
def test_a_truncated_file_is_one_clear_line(tmp_path: Path, suffix: str, keep: int) -> None:
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    state = {"a": torch.zeros(1000)}
    torch.save(state, whole) if suffix == ".pth" else save_file(state, whole)
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=f"cut{suffix}: not a readable") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "b"}}])
def test_a_file_without_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone.safetensors: no such checkpoint file"):
        load_model("small", tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("mean", "0.5,0.5", WeightsError),
        ("bn_eps", "tiny", WeightsError),
        ("std", "0,1,1", WeightsError),
        ("interpolation", "cubic", WeightsError),
        ("resolution", "big", WeightsError),
        ("padding", "SAME", ModelError),
    ],
)
def test_metadata_that_cannot_be_read_is_named(
    tmp_path: Path, key: str, value: str, error: type[Exception]
) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(build_model("small", width=0.35, num_classes=2).state_dict(), path, {key: value})
    with pytest.raises(error, match=key):
        load_model("small", path)


def test_dataparallel_prefix_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"module.a": torch.ones(2), "module.b": torch.ones(1)}, path)
    assert list(load_checkpoint(path).state) == ["a", "b"]
