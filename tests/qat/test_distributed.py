"""Two processes are one with the doubled batch."""

import subprocess
from pathlib import Path

import pytest
import torch
from process_group import free_port, start_process
from safetensors.torch import load_file

HERE = Path(__file__).parent
# Sums of gradients and statistics in another order, through three steps.
TOLERANCE = {"rtol": 2e-3, "atol": 2e-4}


def start(out: Path, form: str, rank: int, size: int, port: int) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    return start_process(HERE / "distributed_worker.py", [out, form], rank=rank, size=size, port=port)


@pytest.mark.parametrize("form", ["moving_average", "learned"])
def test_two_processes_learn_what_one_with_the_doubled_batch_learns(tmp_path: Path, form: str) -> None:
    port = free_port()
    processes = [start(tmp_path / "two", form, rank, 2, port) for rank in (0, 1)]
    processes.append(start(tmp_path / "one", form, 0, 1, port))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    one = load_file(tmp_path / "one" / "rank0.safetensors")
    first, second = (load_file(tmp_path / "two" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys() == one.keys()
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name]), name
        if name.startswith("weight."):
            assert torch.allclose(first[name], tensor, **TOLERANCE), name
    assert (tmp_path / "two" / "log.jsonl").read_text().count("\n") == 1
