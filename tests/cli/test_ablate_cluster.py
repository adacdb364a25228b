"""`qmnv3 ablate --cluster`: a real Ray cluster of this machine where Ray is installed, and refusals."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from cli_command import Cli, assert_refused, run_main
from test_ablate import CELL, RECIPE, dying, mtimes, write_recipe

from device_eval.latency.host import Host
from device_eval.latency.result import Report
from qmnv3.cli import ablate_job, ablate_ray
from qmnv3.cli.ablate_cell import CellJob, Failures
from qmnv3.cli.ablate_config import AblationConfig
from qmnv3.cli.ablate_engine import Work
from qmnv3.cli.ablate_job import Ablation, run_ablation
from qmnv3.cli.ablate_ray import RayCluster
from qmnv3.errors import ClusterError


def test_a_worker_that_dies_fails_its_cell_alone_and_the_next_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'qmnv3[ray]'")
    # Ray keeps a token of its clusters there.
    monkeypatch.setenv("HOME", str(tmp_path))
    # Workers import this module too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    recipe, out = write_recipe(tmp_path / "two.yaml", variants=RECIPE["variants"][::-2]), tmp_path / "OUT"
    given = ("ablate", recipe, "--out", out, "--axes", "size", "--cluster", "local")
    with monkeypatch.context() as patch:
        patch.setattr(ablate_job, "attempt", dying)
        assert run_main(*given) == 1
    written = json.loads((out / "ablation.json").read_text())
    assert [cell["variant"] for cell in written["cells"] if "size" in cell] == ["relu"]
    assert list(written["failures"]) == [f"{CELL}, process"]
    assert "died on the cluster" in written["failures"][f"{CELL}, process"]
    first = mtimes(out)
    assert run_main(*given) == 0
    assert mtimes(out).items() > first.items() and len(mtimes(out)) == 2


@pytest.fixture
def ray_stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ray were installed: an address is looked at before it is used."""
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))


@pytest.mark.usefixtures("ray_stub")
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--cluster", "nonsense"], ["--cluster nonsense", "HOST:PORT"]),
        (["--cluster", "https://head:6379"], ["https://head:6379", "HOST:PORT"]),
        (["--cluster", "head:99999"], ["head:99999", "HOST:PORT"]),
        (["--cluster", "local", "--jobs", "2"], ["--jobs 2", "leave out --jobs"]),
    ],
)
def test_bad_clusters_are_one_line(cli: Cli, tmp_path: Path, arguments: list[str], texts: list[str]) -> None:
    recipe, out = write_recipe(tmp_path / "tiny.yaml"), tmp_path / "OUT"
    assert_refused(cli("ablate", recipe, "--out", out, *arguments), *texts)
    assert not out.exists()


@pytest.mark.usefixtures("ray_stub")
def test_a_cluster_that_does_not_answer_is_one_line(cli: Cli, tmp_path: Path) -> None:
    with socket.socket() as bound:  # not listening: it refuses
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            done = cli(
                "ablate", write_recipe(tmp_path / "a.yaml"), "--out", tmp_path / "OUT", "--cluster", given
            )
            assert_refused(done, given, "cannot be reached", "Connection refused")


@pytest.mark.usefixtures("ray_stub")
def test_a_cluster_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would wait for one for ever."""
    nodes = SimpleNamespace(
        remote=lambda **options: lambda work: work,
        cluster_resources=lambda: {"CPU": 2.0},
        shutdown=lambda: None,
    )
    monkeypatch.setattr(ablate_ray, "_connect", lambda address: nodes)
    config = AblationConfig.model_validate({**RECIPE, "variants": RECIPE["variants"][:1]})
    ablation = Ablation(config, ("size",), tmp_path, Host(), RayCluster("local"), training_device="cuda")
    with pytest.raises(ClusterError, match="--cluster local: no machine of it has a GPU"):
        run_ablation(ablation, Report())


def test_without_ray_the_extra_is_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe, out = write_recipe(tmp_path / "tiny.yaml"), tmp_path / "OUT"
    assert_refused(cli("ablate", recipe, "--out", out, "--cluster", "local"), "pip install 'qmnv3[ray]'")
    assert not out.exists()


class Elsewhere:
    """Machines that see another OUT, or none."""

    def run(self, work: Work, jobs: Sequence[CellJob]) -> Iterator[tuple[CellJob, Failures]]:
        yield from ((job, {}) for job in jobs)


def test_results_that_do_not_come_back_are_a_failure(tmp_path: Path) -> None:
    config = AblationConfig.model_validate({**RECIPE, "variants": RECIPE["variants"][:1]})
    ablation = Ablation(config, ("size",), tmp_path, Host(), Elsewhere())
    failures = run_ablation(ablation, Report()).failures
    assert list(failures) == ["relu-0.25-32, files"]
    assert "must share --out" in failures["relu-0.25-32, files"]
