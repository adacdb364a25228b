"""Staged execution: what the network computes, whatever lies in files, and nothing left behind."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import fx

from calibration.config import PtqConfig
from calibration.frontier import DEFAULT_BUDGET_BYTES, Frontier
from calibration.ptq import calibrate
from calibration.statistics import Images, to_nchw
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import fake_quant

BATCHES = [np.random.default_rng(i).uniform(-2, 2, (3, 32, 32, 3)).astype(np.float32) for i in range(3)]


def images() -> Iterator[Images]:
    yield from BATCHES


@pytest.fixture(scope="module")
def network() -> fx.GraphModule:
    graph = calibrate(randomize(TinyNet()), Preprocessing(32, 36), images, PtqConfig(level=0)).model
    graph.requires_grad_(False)
    return graph


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """What lies in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [path for path in tmp_path.rglob("*") if path.is_file() or path.parent == tmp_path]


def named(graph: fx.GraphModule, name: str) -> fx.Node:
    return next(node for node in graph.graph.nodes if node.name == name)


def plain(graph: fx.GraphModule, name: str) -> list[torch.Tensor]:
    """Tensor `name` of each batch in one ordinary forward pass."""
    seen: list[torch.Tensor] = []
    module = graph.get_submodule(str(named(graph, name).target))
    hook = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        for batch in BATCHES:
            graph(to_nchw(batch))
    hook.remove()
    return seen


@pytest.mark.parametrize("budget", [0, 100_000, DEFAULT_BUDGET_BYTES])
@pytest.mark.parametrize("enabled", [False, True])
def test_equals_the_plain_forward_pass(network: fx.GraphModule, budget: int, enabled: bool) -> None:
    with fake_quant(network, enabled):
        with torch.inference_mode():
            expected = [network(to_nchw(batch)) for batch in BATCHES]
        with Frontier(network, images, budget_bytes=budget) as frontier:
            for node in network.graph.nodes:
                frontier.execute(node)
            got = [stored.load().clone() for stored in frontier.values[node]]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("budget", [0, DEFAULT_BUDGET_BYTES])
def test_a_tensor_is_held_until_its_last_reader_or_kept(network: fx.GraphModule, budget: int) -> None:
    kept, read = named(network, "depthwise_2"), named(network, "fake_quant_stem_2")
    last_reader = named(network, "add")  # the first, expand_0, comes long before
    with Frontier(network, images, keep=lambda node: node is kept, budget_bytes=budget) as frontier:
        for node in network.graph.nodes:
            held = read in frontier.values
            frontier.execute(node)
            if node is last_reader:
                assert held and read not in frontier.values
        values = [stored.load().clone() for stored in frontier.values[kept]]
        held_at_the_end = set(frontier.values)
    assert held_at_the_end == {kept, node}
    for ours, theirs in zip(values, plain(network, "depthwise_2"), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_compute_gives_the_tensor_and_keeps_nothing(network: fx.GraphModule) -> None:
    target = named(network, "expand_0")
    with Frontier(network, images) as frontier:
        for node in network.graph.nodes:
            if node is target:
                computed = list(frontier.compute(node))
                assert node not in frontier.values
                break
            frontier.execute(node)
    for ours, theirs in zip(computed, plain(network, "expand_0"), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_files_go_as_soon_as_nothing_reads_them(
    network: fx.GraphModule, temporary: Callable[[], list[Path]]
) -> None:
    most = 0
    with Frontier(network, images, budget_bytes=0) as frontier:
        for node in network.graph.nodes:
            frontier.execute(node)
            files = [path for path in temporary() if path.suffix == ".npy"]
            most = max(most, len(files))
        assert len(files) == len(BATCHES)  # the logits
    assert len(BATCHES) < most <= 4 * len(BATCHES)  # a residual block holds its input, too
    assert temporary() == []


def test_a_killed_runs_files_go_with_the_next_but_not_a_running_ones(
    network: fx.GraphModule, temporary: Callable[[], list[Path]], tmp_path: Path
) -> None:
    script = (
        "import os; from calibration.spill import SpillFolder; folder = SpillFolder();"
        "(folder.path / '1.npy').write_bytes(b'0'); os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert killed.returncode == -9 and len(temporary()) == 2
    with Frontier(network, images, budget_bytes=0) as running:
        (mine,) = temporary()
        running.execute(next(iter(network.graph.nodes)))
        with Frontier(network, images):
            assert mine.exists() and len(list(mine.iterdir())) == len(BATCHES)
    assert temporary() == []


@pytest.mark.parametrize("budget", [0, DEFAULT_BUDGET_BYTES])
def test_an_error_leaves_nothing(
    network: fx.GraphModule, temporary: Callable[[], list[Path]], budget: int
) -> None:
    def failing() -> Iterator[Images]:
        yield BATCHES[0]
        raise OSError("the disk is gone")

    nodes = list(network.graph.nodes)
    with pytest.raises(OSError, match="gone"), Frontier(network, failing, budget_bytes=budget) as frontier:
        frontier.execute(nodes[0])
    assert temporary() == []
    with pytest.raises(KeyError), Frontier(network, images, budget_bytes=budget) as frontier:
        for node in nodes[:5]:
            frontier.execute(node)
        frontier.execute(nodes[-1])  # whose input is not there yet
    assert temporary() == []


def test_within_the_budget_there_are_no_files(
    network: fx.GraphModule, temporary: Callable[[], list[Path]]
) -> None:
    with Frontier(network, images) as frontier:
        for node in network.graph.nodes:
            frontier.execute(node)
            assert [path for path in temporary() if path.suffix == ".npy"] == []
