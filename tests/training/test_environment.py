"""What surrounds a training and is missing - other processes, GPUs, a compiler - is one line."""

from pathlib import Path

import pytest
import torch
from process_group import free_port, start_process
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
    with pytest.raises(TrainingError, match=r"batch_size: 8 images .*; resume with more processes"):
        train(HungryTask(network()), Noise, config(), tmp_path, recipe={}, resume=True)


def test_only_what_other_processes_cause_is_put_down_to_them() -> None:
    with (
        pytest.raises(ProcessError, match=r"another process ended.*Connection closed by peer"),
        reaching_others(),
    ):
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), reaching_others():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


DIES = """
import os
from pathlib import Path

import torch
from process_group import free_port, start_process
from training.training_runs import Noise, config, network

from qmnv3.cli import fail
from qmnv3.errors import QmnError
from qmnv3.training.distributed import join_world, largest, total
from qmnv3.training.loop import train
from qmnv3.training.task import ClassificationTask

world = join_world("cpu")


def die(*_):
    if world.rank == 1:
        os.kill(os.getpid(), 9)


class Task(ClassificationTask):
    calls = 0

    def loss(self, images, labels):
        self.calls += 1
        if self.calls == 3 and "{where}" == "forward":
            die()
        mean, logits = super().loss(images, labels)
        if self.calls == 3 and "{where}" == "backward":
            mean.register_hook(die)
        return mean, logits


try:
    if "{where}" in ("total", "largest"):
        die()
        {{"total": total, "largest": largest}}["{where}"](torch.ones(2))
    # Without BatchNorm only the gradients are shared.
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    model = plain if "{where}" == "backward" else network()
    train(Task(model), Noise, config(), Path("{out}"), recipe={{}}, world=world)
except QmnError as error:
    fail(str(error), error.exit_code)
"""


@pytest.mark.parametrize("where", ["total", "largest", "forward", "backward"])
def test_a_process_that_died_is_one_line_of_the_others(tmp_path: Path, where: str) -> None:
    script = tmp_path / "dies.py"
    script.write_text(DIES.format(where=where, out=tmp_path / "out"))
    port = free_port()
    survivor, dying = (start_process(script, [], rank=rank, size=2, port=port) for rank in (0, 1))
    dying.communicate(timeout=120)
    _, said = survivor.communicate(timeout=120)
    assert survivor.returncode == 1 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("error: another process ended"), said


JOINS = """
import sys
from qmnv3.training.distributed import join_world

print(join_world("cpu").restarted, file=sys.stderr)
"""


def test_all_were_started_again_where_torchrun_counted_it_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that came later has none of the others' failures."""
    script, port, both = tmp_path / "joins.py", free_port(), []
    script.write_text(JOINS)
    for rank, restarts in enumerate(("0", "1")):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        both.append(start_process(script, [], rank=rank, size=2, port=port))
    assert [process.communicate(timeout=120)[1].splitlines()[-1] for process in both] == ["True", "True"]


def test_compiling_without_a_compiler_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nonexistent/g++",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(
        TrainingError, match=r"compile: true: torch finds no C\+\+ compiler .* leave compile out"
    ):
        run(tmp_path, config(compile=True))
