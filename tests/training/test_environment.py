"""What surrounds a training and is missing - other processes, GPUs, a compiler - is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training.training_runs import Noise, config, network, run

from qmnv3.errors import ProcessError, TrainingError
from qmnv3.training.distributed import join_world, reaching_others
from qmnv3.training.loop import train
from qmnv3.training.task import ClassificationTask

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_part_of_torchruns_environment_is_refused_by_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for key, value in (TORCHRUN | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(TrainingError, match=f"WORLD_SIZE 2: {name} is not set; start .* with torchrun"):
        join_world("cuda" if name == "LOCAL_RANK" else "cpu")  # which only GPUs are chosen by


@pytest.mark.parametrize("value", ["two", "", "0", "-1"])
def test_a_count_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(TrainingError, match=f"WORLD_SIZE {value}: is not a number"):
        join_world("cpu")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (TORCHRUN | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"--nproc-per-node: process 2 of this machine finds 1 GPUs; "):
        join_world("cuda")


class HungryTask(ClassificationTask):
    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_gpu_that_is_full_names_the_batch_size(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"batch_size: 8 images .* lower --batch-size, and give --accum"):
        train(HungryTask(network()), Noise, config(), tmp_path, recipe={})


def test_only_what_other_processes_cause_is_put_down_to_them() -> None:
    with (
        pytest.raises(ProcessError, match=r"another process ended.*Connection closed by peer"),
        reaching_others(),
    ):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), reaching_others():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


DIES = """
import os, torch
from qmnv3.cli import fail
from qmnv3.errors import QmnError
from qmnv3.training.distributed import join_world, {imports}
world = join_world("cpu")
{first}
if world.rank == 1:
    os.kill(os.getpid(), 9)
try:
    {then}
except QmnError as error:
    fail(str(error), error.exit_code)
"""
STEP = "loss(torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64))"
SETUP = f"""
from training.training_runs import network
from qmnv3.training.distributed import reaching_others
from qmnv3.training.task import ClassificationTask
loss = loss_of(ClassificationTask(network().train()), world, compiled=False)
def step():
    with reaching_others():
        mean, _ = {STEP}
    return mean
mean = step()
"""
BACKWARD = "with reaching_others():\n        mean.backward()"


@pytest.mark.parametrize(
    ("imports", "first", "then"),
    [
        ("total", "", "total(torch.ones(2))"),
        ("largest", "", "largest(torch.ones(2))"),
        ("loss_of", SETUP, "step()"),
        ("loss_of", SETUP, BACKWARD),
    ],
    ids=["total", "largest", "forward", "backward"],
)
def test_a_process_that_died_is_one_line_of_the_others(
    tmp_path: Path, imports: str, first: str, then: str
) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES.format(imports=imports, first=first, then=then))
    path = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1])))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--log-dir")
    command = [sys.executable, *launcher, str(tmp_path / "logs"), "--redirects", "2", str(script)]
    subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    said = next((tmp_path / "logs").rglob("0/stderr.log")).read_text()
    assert "Traceback" not in said and "error: another process ended" in said, said


def test_compiling_without_a_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nonexistent/g++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(
        TrainingError, match=r"compile: true: torch finds no C\+\+ compiler .* leave compile out"
    ):
        run(tmp_path, config(compile=True))
