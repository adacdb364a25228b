"""Block reconstruction: it helps, is deterministic, survives kill -9, and its integers are those exported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import OpResolverType
from parity.networks import litert_tensors
from quant.nets import unit_logits
from safetensors.numpy import load_file
from torch import nn

from calibration import reconstruction
from calibration.config import PtqConfig
from calibration.learned import LearnedGrid, random_mask, set_integers
from calibration.ptq import Calibration, calibrate, observe, quantize
from calibration.statistics import to_nchw
from qmnv3.ir import Metadata, QParams, QuantGraph
from qmnv3.lowering import lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.fake_quant import FakeQuantize, QuantWeight, fake_quant
from qmnv3.reference import run

SPEC = Preprocessing(32, 32)
TESTS = Path(__file__).parents[1]


def images(count: int, seed: int) -> np.ndarray:
    """Textures, each of a colour and contrast of its own, in the input's range of -1 .. 1."""
    generator = np.random.default_rng(seed)
    texture = generator.uniform(-1, 1, (count, 8, 8, 3)) * generator.uniform(0, 1, (count, 1, 1, 3))
    smooth = np.clip(texture + generator.uniform(-1, 1, (count, 1, 1, 3)), -1, 1).astype(np.float32)
    return np.kron(smooth, np.ones((1, 4, 4, 1), np.float32))


BATCHES = [images(16, seed) for seed in range(10)]


def recipe(level: int = 5, **options: float) -> PtqConfig:
    learning = {"steps": 60, **options}
    return PtqConfig.model_validate({"level": level, "weights": {"bits": 4}, "reconstruction": learning})


def reconstruct(level: int = 5, folder: Path | None = None, **options: float) -> Calibration:
    return calibrate(
        unit_logits(to_nchw(images(64, 0))), SPEC, lambda: BATCHES, recipe(level, **options), folder=folder
    )


def integers(graph: QuantGraph) -> dict[str, np.ndarray]:
    """Every constant and every grid of the graph."""
    found = {name: t.data for name, t in graph.tensors.items() if t.data is not None}
    for name, tensor in graph.tensors.items():
        if tensor.qparams is not None:
            found |= {f"{name}:scale": tensor.qparams.scale, f"{name}:zero": tensor.qparams.zero_point}
    return found


def assert_same(first: QuantGraph, second: QuantGraph) -> None:
    ours, theirs = integers(first), integers(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def result() -> Calibration:
    return reconstruct()


@pytest.fixture(scope="module")
def graph(result: Calibration) -> QuantGraph:
    return convert(result.model, Metadata("tiny", SPEC))


def divergence(calibration: Calibration) -> float:
    """KL divergence from float on images that nothing was learned from."""
    x = to_nchw(images(64, 99))
    with torch.inference_mode(), fake_quant(calibration.model):
        quantized = calibration.model(x).log_softmax(1)
    with torch.inference_mode():
        exact = calibration.parent(x).log_softmax(1)
    return float(nn.KLDivLoss(reduction="batchmean", log_target=True)(quantized, exact))


def test_weights_rounded_wrongly_recover_on_other_images() -> None:
    observed = observe(unit_logits(to_nchw(images(64, 0))), SPEC, lambda: BATCHES, (recipe(),))
    wrong = quantize(observed, recipe(level=3))
    nearest = divergence(wrong)
    for module in wrong.model.modules():
        if isinstance(module, QuantWeight):
            module.weight_fake_quant.freeze(module.layer.weight)
            grid = module.weight_fake_quant.frozen
            set_integers(module, torch.from_numpy(np.floor(steps_of(module, grid))))
    before = divergence(wrong)
    reconstruction.apply(wrong.model, observed.statistics, recipe(steps=200))
    assert divergence(wrong) < min(0.1 * before, nearest)
    assert all(row["taken"] for row in wrong.model.meta[reconstruction.REPORT])


def test_what_does_not_hold_on_other_images_is_not_kept() -> None:
    """Rates that wreck every block leave the network as level 4 made it, but for corrected biases."""
    wrecked = reconstruct(weight_rate=50.0, most_steps=100.0, bias_rate=1000.0)
    rows = wrecked.to_json()["reconstruction"]
    assert not any(row["taken"] for row in rows)
    before, after = (
        {name: t.data for name, t in convert(c.model, Metadata()).tensors.items() if name.endswith(".weight")}
        for c in (reconstruct(level=4), wrecked)
    )
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def steps_of(module: QuantWeight, grid: QParams) -> np.ndarray:
    weight = module.layer.weight.numpy()
    return weight / grid.broadcast(weight.ndim)[0]


def test_weights_lie_on_the_grid_and_come_out_as_learned(result: Calibration, graph: QuantGraph) -> None:
    for path, module in result.model.named_modules():
        if isinstance(module, QuantWeight):
            grid = module.weight_fake_quant.frozen
            steps = steps_of(module, grid)
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
            data = graph.tensors[f"{path}.weight"].data
            assert np.abs(data).max() <= 7
            np.testing.assert_array_equal(np.sort(data, None), np.sort(np.rint(steps), None))


def test_litert_computes_what_the_reference_does(graph: QuantGraph) -> None:
    lowered = lower(graph, "xnnpack")
    x = graph.tensors["image"].qparams.quantize(images(1, 5)).astype(np.int8)
    ours = run(lowered, {"image": x}, "tflite")["logits"]
    np.testing.assert_array_equal(ours, litert_tensors(lowered, x, OpResolverType.BUILTIN_REF)["logits"])
    assert len(np.unique(ours)) > 3


def test_the_same_seed_gives_the_same_integers(graph: QuantGraph) -> None:
    assert_same(graph, convert(reconstruct().model, Metadata("tiny", SPEC)))


def test_a_killed_run_continues_to_the_same_integers(graph: QuantGraph, tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    script = (
        "from pathlib import Path; from calibration_reconstruction_job import job; "
        f"job(Path({str(folder)!r}))"
    )
    source = Path(__file__).read_text(encoding="utf-8")
    assert "def job(" in source
    (tmp_path / "calibration_reconstruction_job.py").write_text(source, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(TESTS), str(TESTS.parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": paths})
    first = folder / "000.safetensors"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the job ended before it could be killed"
    assert first.exists()
    done = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}
    resumed = reconstruct(folder=folder)
    assert_same(graph, convert(resumed.model, Metadata("tiny", SPEC)))
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == done  # read, not made again
    assert load_file(first)


def job(folder: Path) -> None:
    """What the test above kills: reconstruction that takes its time."""
    learn = reconstruction._learn

    def slowly(*args: object) -> None:
        if (folder / "000.safetensors").exists():
            time.sleep(60)
        learn(*args)  # type: ignore[arg-type]

    reconstruction._learn = slowly
    torch.set_num_threads(torch.get_num_threads())
    reconstruct(folder=folder)


def test_another_recipes_blocks_are_not_taken(tmp_path: Path) -> None:
    reconstruct(folder=tmp_path, range_rate=0.01)
    assert_same(
        convert(reconstruct(folder=tmp_path).model, Metadata()), convert(reconstruct().model, Metadata())
    )


def test_a_resumed_run_says_where_it_continues_or_why_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconstruct(folder=tmp_path, steps=2)
    assert not caplog.messages
    (tmp_path / "001.safetensors").unlink()
    reconstruct(folder=tmp_path, steps=2)
    reconstruct(folder=tmp_path, steps=3)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    reconstruct(folder=tmp_path, steps=3)
    continued, by_recipe, by_threads = caplog.messages
    assert "continues at block 2 of 2" in continued
    assert f"(threads: {threads}, now {threads + 1})" in by_threads and "starts anew" in by_threads
    assert "other recipe" in by_recipe


def test_gradients_of_a_grid_are_lsqs() -> None:
    """Against torch's own learnable fake-quantize, whose scale gradient is LSQ's."""
    site = FakeQuantize("x")
    site.qparams = QParams.per_tensor(0.05, 3)
    grid = LearnedGrid(site)
    x = torch.linspace(-9.0, 9.0, 400, requires_grad=True)
    weights = torch.linspace(-1.0, 2.0, 400)
    (grid(x) * weights).sum().backward()
    other, scale = x.detach().clone().requires_grad_(), torch.tensor([0.05], requires_grad=True)
    zero_point = torch.tensor([3.0], requires_grad=True)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(other, scale, zero_point, -128, 127, 1.0)
    (theirs * weights).sum().backward()
    np.testing.assert_allclose(grid(x).detach(), theirs.detach(), atol=1e-6)
    np.testing.assert_allclose(x.grad, other.grad)
    np.testing.assert_allclose(grid.log_scale.grad, scale.grad * 0.05, rtol=1e-4)
    np.testing.assert_allclose(grid.zero_point.grad, zero_point.grad, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_take_their_share_at_random(layout: torch.memory_format) -> None:
    like = torch.zeros(4, 5, 60, 70).contiguous(memory_format=layout)
    for share in (0.0, 0.25, 0.5, 1.0):
        first, second = (random_mask(like, share, torch.Generator().manual_seed(s)) for s in (1, 2))
        assert first.shape == like.shape and first.stride() == like.stride()
        assert float(first.float().mean()) == pytest.approx(share, abs=0.01)  # six standard deviations
        assert float((first & second).float().mean()) == pytest.approx(share**2, abs=0.01)
