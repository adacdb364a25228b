"""`qmnv3 ablate` on narrow networks of 32 pixels: what it writes, keeps, and reports as failed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cell_work import decoding, dying
from cli_command import ENVIRONMENT, Cli, assert_refused, run_main
from safetensors.torch import load_file

from device_eval.latency import Plan
from device_eval.latency.result import Latency, Measurement, Refusal, Report
from device_eval.latency.structure import structure
from qmnv3.cli import ablate_job
from qmnv3.cli.ablate_cell import CellJob
from qmnv3.cli.ablate_config import AblationConfig, cells
from qmnv3.cli.ablate_engine import Processes
from qmnv3.cli.ablate_latency import latency
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model
from recipes import load_recipe

RECIPE: dict[str, Any] = {
    "variants": [
        {"name": "relu", "model": "small", "options": {"nonlinearity": "relu"}},
        # There is no such site: building it fails, which only the cell itself finds out.
        {"name": "broken", "model": "small", "options": {"activations": {"features.99": "swish"}}},
        {"name": "V3", "model": "small"},
    ],
    "sizes": [{"widths": [0.25], "resolutions": [32]}],
    "lowerings": ["op", "add-mul"],
}
CELL = "V3-0.25-32"


def write_recipe(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def mtimes(out: Path) -> dict[str, int]:
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns for path in sorted(out.glob("cells/*/*.json"))
    }


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """Recipe, OUT and exit code of one run with a cell that fails."""
    root = tmp_path_factory.mktemp("ablate")
    recipe, out = write_recipe(root / "tiny.yaml"), root / "OUT"
    return recipe, out, run_main("ablate", recipe, "--out", out, "--runs", 3, "--warmup", 1)


def test_a_failed_cell_is_reported_and_the_others_finish(ablated: tuple[Path, Path, int]) -> None:
    _, out, code = ablated
    written = json.loads((out / "ablation.json").read_text())
    assert code == 1
    assert list(written["failures"]) == ["broken-0.25-32, size"]
    assert "features.99" in written["failures"]["broken-0.25-32, size"]
    assert [cell["variant"] for cell in written["cells"] if "latency" in cell] == ["relu", "V3"]
    assert "features.99" in (out / "ablation.md").read_text()


def test_each_lowering_is_exported_and_timed(ablated: tuple[Path, Path, int]) -> None:
    written = json.loads((ablated[1] / "ablation.json").read_text())
    relu, _, v3 = written["cells"]
    assert [file["form"] for file in relu["size"]["files"]] == ["float32", "int8"]
    assert [file["form"] for file in v3["size"]["files"]] == ["float32", "int8 op", "int8 add-mul"]
    _, op, add_mul = v3["size"]["files"]
    assert op["op_counts"]["HARD_SWISH"] == 19 and "HARD_SWISH" not in add_mul["op_counts"]
    assert op["partitions"] > add_mul["partitions"] == 1
    assert all("fitted to only 4 published" in file["notes"][-1] for file in (op, add_mul))
    timed = {(entry["form"], entry["runtime"]) for entry in v3["latency"]["latencies"]}
    kernels = ("LiteRT xnnpack", "LiteRT builtin")
    assert timed == {(file["form"], kernel) for file in v3["size"]["files"] for kernel in kernels}
    assert all(entry["ratio"] > 0 and len(entry["latency_us"]) == 3 for entry in v3["latency"]["latencies"])
    (own,) = [e for e in relu["latency"]["latencies"] if (e["form"], e["runtime"]) == ("int8", kernels[0])]
    assert own["ratio"] == 1


def test_what_is_finished_is_kept_and_what_is_damaged_is_not(ablated: tuple[Path, Path, int]) -> None:
    recipe, out, _ = ablated
    before = mtimes(out)
    (out / "cells" / CELL / "latency.json").write_text('{"finger')
    assert run_main("ablate", recipe, "--out", out, "--runs", 3, "--warmup", 1) == 1
    after = mtimes(out)
    assert [name for name in before if before[name] != after[name]] == [f"cells/{CELL}/latency.json"]


@dataclass
class StandIn:
    """A device that says at once, and counts, what it was told to say."""

    noisy: bool = True
    calls: int = 0

    def identity(self) -> dict[str, str]:
        return {"name": "stand-in"}

    def measure(self, paths: Sequence[Path], plan: Plan, report: Report) -> Measurement:
        self.calls += 1
        reason = "throttled" if self.noisy else None
        taken = tuple(Latency(path, "any", (5.0,) * 40, disturbance=reason) for path in paths[:-1])
        return Measurement(taken, (Refusal(paths[-1], "any", f"{paths[-1]}: too wide"),))


def test_noisy_latency_is_measured_again_and_steady_kept(
    ablated: tuple[Path, Path, int], tmp_path: Path
) -> None:
    out, config = tmp_path / "OUT", load_recipe(str(ablated[0]), AblationConfig)
    shutil.copytree(ablated[1], out)
    job = CellJob(cells(config)[-1], config, ("latency",), out, out / "digits")
    device = StandIn()

    def measure(**identity: str) -> dict[str, Any]:
        return latency(job, None, device, {**device.identity(), **identity}, Plan(), Report())

    assert {entry["verdict"] for entry in measure()["latencies"]} == {"noisy: throttled"}
    device.noisy = False
    assert measure() == measure()
    assert device.calls == 2
    assert measure()["refusals"] == [{"form": "int8 add-mul", "runtime": "any", "reason": "too wide"}]
    measure(serial="another phone")
    assert device.calls == 3


class NoisyBaseline:
    """A device on which the first file is throttled while it says so; all else takes as long."""

    throttled = True

    def identity(self) -> dict[str, str]:
        return {"name": "stand-in"}

    def measure(self, paths: Sequence[Path], plan: Plan, report: Report) -> Measurement:
        first, *others = paths
        latencies = [Latency(first, "any", (4.0,) * 40, disturbance="hot" if self.throttled else None)]
        return Measurement((*latencies, *(Latency(path, "any", (6.0,) * 40) for path in others)), ())


def test_a_noisy_baseline_gives_no_ratios_and_is_measured_again(
    ablated: tuple[Path, Path, int], tmp_path: Path
) -> None:
    out, config = tmp_path / "OUT", load_recipe(str(ablated[0]), AblationConfig)
    shutil.copytree(ablated[1], out)
    listed = cells(config)
    baseline, job = (
        CellJob(cell, config, ("latency",), out, out / "digits") for cell in (listed[0], listed[-1])
    )
    device = NoisyBaseline()

    def ratios() -> set[float | None]:
        found = latency(job, baseline, device, device.identity(), Plan(), Report())
        assert {entry["verdict"] for entry in found["latencies"]} == {"steady"}
        return {entry["ratio"] for entry in found["latencies"]}

    assert ratios() == {None}
    device.throttled = False
    assert ratios() == {1.5}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_fails_its_cell_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    recipe, out = write_recipe(tmp_path / "three.yaml", variants=RECIPE["variants"][::-1]), tmp_path / "OUT"
    monkeypatch.setattr(ablate_job, "attempt", dying)
    assert run_main("ablate", recipe, "--out", out, "--axes", "size", "--jobs", jobs) == 1
    written = json.loads((out / "ablation.json").read_text())
    assert [cell["variant"] for cell in written["cells"] if "size" in cell] == ["relu"]
    failures = written["failures"]
    assert sorted(failures) == [f"{CELL}, process", "broken-0.25-32, process"]
    assert (
        "was killed" in failures[f"{CELL}, process"] and "exit code 3" in failures["broken-0.25-32, process"]
    )


def test_a_cells_process_may_have_processes_of_its_own(tmp_path: Path) -> None:
    """As training on a GPU has, to decode images."""
    config = load_recipe(str(write_recipe(tmp_path / "three.yaml")), AblationConfig)
    jobs = [CellJob(cell, config, ("size",), tmp_path, tmp_path) for cell in cells(config)[:1]]
    assert [failed for _, failed in Processes().run(decoding, jobs)] == [{"size": "RELU"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_interrupted_command_goes_on(tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "two.yaml", variants=RECIPE["variants"][::2]), tmp_path / "OUT"
    given = ("ablate", recipe, "--out", out, "--axes", "size")
    command = [sys.executable, "-m", "qmnv3", *map(str, given)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while not mtimes(out):
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        # It ends when no process that works for it has the pipe open any more.
        assert running.stderr.read() == "error: interrupted\n"
    assert running.returncode == 130
    first = mtimes(out)
    assert list(first) == ["cells/relu-0.25-32/size.json"]
    assert run_main(*given) == 0
    assert mtimes(out).items() > first.items() and len(mtimes(out)) == 2


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of V3-Small at width 0.25, made with ReLU everywhere."""
    path = tmp_path_factory.mktemp("started") / "relu.safetensors"
    loaded = load_model("small", seed=7, width=0.25, nonlinearity="relu", num_classes=5)
    assert isinstance(loaded.model, MobileNet)
    save_checkpoint(path, loaded.model, loaded.preprocessing)
    return path


def test_weights_that_do_not_fit_are_refused_before_anything_is_done(
    cli: Cli, tmp_path: Path, started: Path
) -> None:
    for weights, options, texts in (
        (started, {"stem_width": 64}, ["variant V3 at width 0.25", "relu.safetensors", "model=small"]),
        (tmp_path / "none.pth", {}, ["none.pth", "no such checkpoint"]),
    ):
        variant = {"name": "V3", "model": "small", "weights": str(weights), "options": options}
        recipe, out = write_recipe(tmp_path / "bad.yaml", variants=[variant]), tmp_path / "OUT"
        assert_refused(cli("ablate", recipe, "--out", out), *texts)
        assert not out.exists()


def test_accuracy_is_of_each_file_of_the_trained_network(
    tmp_path: Path, photos: Path, started: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"epochs": 1, "batch_size": 3, "bn_momentum": 0.5, "workers": 1}
    recipe = write_recipe(
        tmp_path / "one.yaml",
        variants=[{"name": "V3", "model": "small", "weights": str(started)}],
        lowerings=["op", "equalized"],
        training=training,
        calibration={"level": 0, "images": 4},
        training_resolution=32,
    )
    out, images = tmp_path / "OUT", tmp_path / "images"
    shutil.copytree(photos, images)
    classes = sorted(path for path in images.iterdir() if path.is_dir())
    (classes[0] / "corrupt.jpg").write_bytes(b"no image")  # which training leaves out, so the rest must too
    given = ("--data", images, "--val", images, "--axes", "accuracy")
    assert run_main("ablate", recipe, "--out", out, *given) == 0
    assert (
        f"note: each training writes its progress to {out}/cells/*/*/training.log" in capsys.readouterr().err
    )
    [log] = out.glob("cells/*/*/training.log")
    assert "epoch 1" in log.read_text()
    (cell,) = json.loads((out / "ablation.json").read_text())["cells"]
    found = cell["accuracy"]
    assert [Path(path).name for path in found["skipped"]] == ["corrupt.jpg"]
    assert found["images"] == 6 and found["resolution"] == 32
    assert list(found["top1"]) == ["float32", "int8 op", "int8 equalized"]
    for form, top1 in found["top1"].items():
        [folder] = out.glob(f"cells/{CELL}/training-*/files/{form.replace(' ', '_')}")
        [file] = folder.iterdir()
        assert run_main("eval", file, "--data", photos, "--json", tmp_path / "eval.json") == 0
        evaluated = json.loads((tmp_path / "eval.json").read_text())["top1"]
        assert top1 == {name: pytest.approx(100 * evaluated[name]) for name in ("estimate", "low", "high")}
        if form.startswith("int8"):
            assert structure(file).op_counts.get("HARD_SWISH", 0) == (19 if form == "int8 op" else 0)
    assert set(found["int8_minus_float"]) == {"int8 op", "int8 equalized"}
    [initial] = out.glob(f"cells/{CELL}/training-*/initial.safetensors")
    given, state = load_file(started), load_file(initial)
    assert all(torch.equal(state[key], given[key]) for key in given if not key.startswith("classifier."))
