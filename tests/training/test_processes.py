"""Several processes train what one with all the images trains, and outlive one of them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import TCPStore
from training.kill_at_random import write_images
from training.processes_worker import learn, norm_input
from training.training_runs import KillAt, Killed

from qmnv3.training.distributed import ALONE, agreed_prefix
from qmnv3.training.logs import read_log

HERE = Path(__file__).parent
# Sums in another order; gradients and weights are of the order of 1.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
# Two roundings to eight bits.
BFLOAT16 = {"rtol": 2**-7, "atol": 2**-7}

State = dict[str, torch.Tensor]


def start(what: str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Two processes."""
    write_images(out / "images")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    command = [*launcher, *options, str(HERE / "processes_worker.py"), what, str(out)]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def torchrun(what: str, out: Path, *options: str) -> tuple[State, State]:
    """What each of two processes ended with."""
    done = start(what, out, *options)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(out / f"machine{rank}" / "result.safetensors") for rank in (0, 1))
    return first, second


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State, State]:
    out = tmp_path_factory.mktemp("plain")
    return out, *torchrun("plain", out)


def test_two_processes_learn_what_one_with_the_doubled_batch_learns(
    plain: tuple[Path, State, State],
) -> None:
    out, first, second = plain
    one = learn(ALONE, out / "alone", dropout=0.0).state_dict()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], tensor, **TOLERANCE), name
    logs = [read_log(out / name / "log.jsonl") for name in ("machine0", "alone")]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    of_both, of_all = ([line for line in log if "loss" in line] for log in logs)
    assert [line["loss"] for line in of_both] == pytest.approx([line["loss"] for line in of_all], rel=1e-4)
    assert [line["accuracy"] for line in of_both] == [line["accuracy"] for line in of_all]


def test_only_the_first_process_writes_files(plain: tuple[Path, State, State]) -> None:
    out, _, _ = plain
    assert {path.name for path in (out / "machine1").rglob("*") if path.is_file()} == {"result.safetensors"}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, TOLERANCE), (torch.bfloat16, BFLOAT16)])
def test_batch_norm_over_processes_is_torchs_over_all_images(
    plain: tuple[Path, State, State], dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01)
    norm.weight.data.copy_(torch.arange(1.0, 5.0))
    norm.bias.data.copy_(torch.arange(4.0))
    x = norm_input().to(dtype).float().requires_grad_()
    y = norm(x)
    (y * torch.linspace(-1, 1, x.numel()).reshape(x.shape)).sum().backward()
    assert x.grad is not None and norm.weight.grad is not None
    assert norm.running_mean is not None and norm.running_var is not None
    both = plain[1:]
    for rank, state in enumerate(both):
        mine = slice(rank, None, 2)
        assert torch.allclose(state[f"{dtype} y"].float(), y[mine], **tolerance)
        assert torch.allclose(state[f"{dtype} gradient"].float(), x.grad[mine], **tolerance)
        assert torch.allclose(state[f"{dtype} mean"], norm.running_mean, rtol=1e-5)
        assert torch.allclose(state[f"{dtype} var"], norm.running_var, rtol=1e-5)
    weight_gradient = both[0][f"{dtype} weight_gradient"] + both[1][f"{dtype} weight_gradient"]
    assert torch.allclose(weight_gradient, norm.weight.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_processes_that_were_started_again_end_as_if_none_had_died(tmp_path: Path) -> None:
    """The second is killed after step 5 and has no files; dropout differs between processes.

    More than one restart is allowed: on a busy machine gloo may not find the other process in time.
    """
    whole = torchrun("whole", tmp_path / "whole")
    again = torchrun("dies", tmp_path / "dies", "--max-restarts", "3")
    for expected, found in zip(whole, again, strict=True):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    logs = [read_log(tmp_path / name / "machine0" / "log.jsonl") for name in ("whole", "dies")]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]


def test_one_process_goes_on_where_two_were_killed(tmp_path: Path, plain: tuple[Path, State, State]) -> None:
    """In the middle of an epoch, with the images of both."""
    assert start("end", tmp_path).returncode != 0
    one = learn(ALONE, tmp_path / "machine0", dropout=0.0, begun_by=2, resume=True).state_dict()
    for name, expected in plain[1].items():
        if name in one:
            assert torch.allclose(one[name], expected, **TOLERANCE), name
    steps = [line["step"] for line in read_log(tmp_path / "machine0" / "log.jsonl")]
    assert steps == [line["step"] for line in read_log(plain[0] / "machine0" / "log.jsonl")]


def test_two_processes_go_on_where_one_was_killed(tmp_path: Path, plain: tuple[Path, State, State]) -> None:
    write_images(tmp_path / "images")
    with pytest.raises(Killed):
        learn(ALONE, tmp_path / "machine0", dropout=0.0, reporter=KillAt(5))
    first, second = torchrun("of one", tmp_path)
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
        assert torch.allclose(tensor, plain[1][name], **TOLERANCE), name


def test_processes_started_again_agree_on_a_prefix_that_none_had_before() -> None:
    """All starts in one store. The last process of the first start dies before it can agree on anything."""
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    patience = timedelta(seconds=20)
    stores = [TCPStore("localhost", server.port, is_master=False, timeout=patience) for _ in range(3)]
    stores[0].set("here_2", "the one that died")
    with ThreadPoolExecutor(3) as pool:
        starts = []
        for _ in range(3):
            found = pool.map(agreed_prefix, stores, range(3), [3] * 3)
            starts.append(set(found))
    assert [len(words) for words in starts] == [1, 1, 1]
    assert len(set.union(*starts)) == 3
