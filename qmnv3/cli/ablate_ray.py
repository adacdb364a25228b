"""Cells built and trained by a Ray cluster. Their files come back through a folder all machines share."""

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from qmnv3.cli.ablate_cell import CellJob, Failures
from qmnv3.cli.ablate_engine import DIED, Work
from qmnv3.errors import ClusterError

LOCAL = "local"
_REACH_S = 5.0


@dataclass(frozen=True)
class RayCluster:
    """A cluster's address, or "local" for one of this machine alone, started and ended with the work.

    Cells take a CPU each, and a GPU if they train on one. A worker process takes one cell and ends, as in
    `Processes`.
    """

    address: str

    def __post_init__(self) -> None:
        _ray()
        if self.address != LOCAL:
            _check_reachable(self.address)

    def run(self, work: Work, jobs: Sequence[CellJob]) -> Iterator[tuple[CellJob, Failures]]:
        """Every job with what failed of it, in the order they end; ClusterError when the cluster is lost."""
        if not jobs:
            return
        ray = _connect(self.address)
        try:
            task = ray.remote(max_retries=0, max_calls=1)(work)
            gpus = [int(job.training_device == "cuda") for job in jobs]
            if any(gpus) and not ray.cluster_resources().get("GPU"):
                raise ClusterError(  # Ray would wait for one, without a word
                    f"--cluster {self.address}: no machine of it has a GPU; leave out --training-device cuda"
                )
            submitted = {task.options(num_gpus=g).remote(job): job for g, job in zip(gpus, jobs, strict=True)}
            waiting = list(submitted)
            while waiting:
                ended, waiting = ray.wait(waiting)
                for answer in ended:
                    yield submitted[answer], _failures(ray, answer)
        finally:
            ray.shutdown()


def _ray() -> ModuleType:
    # Ray reports to its makers unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "ray: is not installed, and --cluster needs it; pip install 'qmnv3[ray]'"
        ) from error
    module: ModuleType = ray
    return module


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes, printing, and may end the process."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise ClusterError(f"--cluster {address}: not an address; give HOST:PORT, ray://HOST:PORT or local")
    try:
        socket.create_connection((host, port), _REACH_S).close()
    except OSError as error:
        raise ClusterError(
            f"--cluster {address}: cannot be reached ({error.strerror or error}); "
            "start it with `ray start --head`, or give the address that prints"
        ) from error


def _connect(address: str) -> ModuleType:
    ray = _ray()
    alone = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **alone)
    # Of another version, of another Python, or not Ray: it raises anything.
    except Exception as error:
        said = " ".join(str(error).split())
        raise ClusterError(f"--cluster {address}: Ray refuses ({type(error).__name__}: {said})") from error
    return ray


def _failures(ray: ModuleType, answer: Any) -> Failures:
    try:
        failures: Failures = ray.get(answer)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        return {DIED: "its process died on the cluster, often for want of memory; give the command again"}
    except ray.exceptions.RayError as error:
        # The last line of a traceback says what; the rest where in Ray.
        *_, last = str(error).strip().splitlines() or [type(error).__name__]
        return {DIED: f"{type(error).__name__}: {last}"}
    return failures
