"""Several processes that do one job, as torchrun starts them."""

import atexit
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from qmnv3.errors import ProcessError, TrainingError


@dataclass(frozen=True)
class World:
    """This process among `size`; `device` is where it trains.

    `restarted`: torchrun started all of them again after one had died.
    """

    rank: int
    size: int
    device: str
    restarted: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0


ALONE = World(0, 1, "cpu")
# The others wait while the first process works alone. With gloo it shows at once when one of them died; with
# NCCL torchrun ends all, but one that hangs holds the GPUs so long.
_PATIENCE = {"gloo": timedelta(days=1), "nccl": timedelta(hours=2)}
_FAILURES = "qmnv3_failures"
_START = "start several processes with torchrun, or unset WORLD_SIZE"
_alone = ContextVar("alone", default=False)


def require_device(device: str, option: str = "--device", *, elsewhere: bool = False) -> None:
    """TrainingError naming the option, unless `device` is "cpu" or "cuda", and here if not `elsewhere`."""
    if device not in ("cpu", "cuda"):
        raise TrainingError(f"{option} {device}: is not cpu or cuda")
    if device == "cuda" and not elsewhere and not torch.cuda.is_available():
        raise TrainingError(f"{option} cuda: this torch sees no GPU; leave it out to train on the CPU")


def join_world(device: str) -> World:
    """Join the processes torchrun started, or be alone; `device` is "cpu" or "cuda".

    TrainingError for a device that is not there, for more processes than GPUs, and where part of what
    torchrun sets in the environment is missing.
    """
    require_device(device)
    size = _from_torchrun("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        return World(0, 1, device, _restarts() > 0)
    rank = _from_torchrun("RANK")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise TrainingError(f"WORLD_SIZE {size}: {name} is not set; {_START}")
    if device == "cuda":
        local, gpus = _from_torchrun("LOCAL_RANK"), torch.cuda.device_count()
        if local >= gpus:
            raise TrainingError(
                f"--nproc-per-node: process {local + 1} of this machine finds {gpus} GPUs; "
                "start as many processes as there are GPUs"
            )
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        backend = "nccl" if device == "cuda" else "gloo"
        patience = _PATIENCE[backend]
        with reaching_others():
            dist.init_process_group(backend, store=_store(), rank=rank, world_size=size, timeout=patience)
        if device == "cpu":
            atexit.register(dist.destroy_process_group)  # gloo's threads abort an interpreter that ends first
    # torchrun counts on each machine what failed there; some may have come later.
    restarts = largest(torch.tensor(_restarts(), device=device))
    return World(dist.get_rank(), size, device, bool(restarts > 0))


def _from_torchrun(name: str) -> int:
    value = os.environ.get(name)
    if value is None:
        raise TrainingError(f"WORLD_SIZE {os.environ['WORLD_SIZE']}: {name} is not set; {_START}")
    if not value.isdecimal() or (name == "WORLD_SIZE" and int(value) == 0):
        raise TrainingError(f"{name} {value}: is not a number of processes; {_START}")
    return int(value)


def gpu_name(device: str) -> str | None:
    """What the driver calls the GPU that a `World` trains on; None for the CPU."""
    return torch.cuda.get_device_name() if device == "cuda" else None


def is_distributed() -> bool:
    """Whether there are other processes to work with."""
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def alone() -> Iterator[None]:
    """What this process does in the block the others do not: it must not wait for them."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@cache
def _store() -> Any:
    store, rank, size = next(rendezvous("env://"))
    return PrefixStore(agreed_prefix(store, rank, size), store)


def agreed_prefix(store: Any, rank: int, size: int) -> str:
    """Where in torchrun's store the processes of this start keep their keys.

    The store outlives processes that are started again, whose keys are still there, and no number in the
    environment tells one start from the next on all machines alike. So each process publishes a random word.
    The first answers every word that it reads with its own, the prefix, until each of the others has
    confirmed it; words of processes that died are never confirmed. DistStoreError when one does not come.
    """
    word = uuid4().hex
    deadline = time.monotonic() + store.timeout.total_seconds()
    if rank > 0:
        store.set(f"here_{rank}", word)
        prefix: str = store.get(f"prefix_for_{word}").decode()
        store.set(f"{prefix}_{rank}", "")
        return prefix
    for other in range(1, size):
        while not store.check([f"{word}_{other}"]):
            store.set(f"prefix_for_{store.get(f'here_{other}').decode()}", word)
            time.sleep(0.01)
            if time.monotonic() > deadline:
                raise dist.DistStoreError(f"process {other} of {size} did not come")
    return word


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def first_to_fail() -> bool:
    """Whether this process is the first that asks: where all fail of one cause, one of them shall say so."""
    try:
        return not is_distributed() or _store().add(_FAILURES, 1) == 1
    except RuntimeError:  # who kept count is gone
        return True


@contextmanager
def reaching_others() -> Iterator[None]:
    """ProcessError where the block fails because another process is gone; other errors stay as they are."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own, but name its source files or the transport.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise ProcessError(
            f"another process ended, see what it said; {str(error).splitlines()[0]}"
        ) from error


def largest(values: Tensor) -> Tensor:
    """Elementwise maximum over all processes."""
    if is_distributed():
        with reaching_others():
            dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def total(values: Tensor) -> Tensor:
    """Elementwise sum over all processes."""
    if is_distributed():
        with reaching_others():
            dist.all_reduce(values)
    return values


def from_leader(value: float) -> float:
    """What the first process has."""
    if not is_distributed():
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=_device())
    with reaching_others():
        dist.broadcast(shared, 0)
    return float(shared)


def bytes_of_leader(read: Callable[[], bytes]) -> bytes:
    """What the first process reads."""
    if not is_distributed():
        return read()
    return _broadcast(read() if dist.get_rank() == 0 else b"", 0)


def names_of_all(names: Sequence[str]) -> list[str]:
    """Names that any process has, sorted."""
    if not is_distributed():
        return sorted(names)
    lists = [json.loads(each) for each in contents_of_all(json.dumps(list(names)).encode())]
    return sorted({name for each in lists for name in each})


def contents_of_all(content: bytes) -> list[bytes]:
    """What each process gives, in order of rank."""
    if not is_distributed():
        return [content]
    return [_broadcast(content, rank) for rank in range(dist.get_world_size())]


def _broadcast(content: bytes, rank: int) -> bytes:
    """The `content` process `rank` has; ProcessError when another process is gone."""
    length = torch.tensor(len(content), device=_device())
    with reaching_others():
        dist.broadcast(length, rank)
    values = torch.zeros(int(length), dtype=torch.uint8, device=_device())
    if dist.get_rank() == rank:
        values.copy_(torch.from_numpy(np.frombuffer(content, np.uint8).copy()))
    with reaching_others():
        dist.broadcast(values, rank)
    return values.cpu().numpy().tobytes()


def _device() -> str:
    """Where tensors must be to be sent."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
