"""Block reconstruction: blocks learn to make the float network's output from quantized inputs (level 5).

Block by block, in order and with all earlier blocks as learned, weights, biases and ranges move by gradient
so that the block's output comes nearer to the float one (Li et al. 2021, BRECQ; some values stay unrounded
as in Wei et al. 2022, QDrop). An error counts by the Fisher information of its channel; no labels are used.
What is learned must hold on images that were not learned from, else the block stays as it was.
"""

import logging
import math
from dataclasses import asdict, dataclass

import torch
from torch import fx

from calibration.blocks import Block, find_blocks
from calibration.checkpoints import FOLDER, Checkpoints, fingerprint
from calibration.config import PtqConfig, ReconstructionConfig
from calibration.frontier import run_node
from calibration.learned import LearnedGrid, LearnedLayer, random_mask
from calibration.paired import Paired
from calibration.progress import Advance, Progress, silent
from calibration.ranges import FLOORED
from calibration.statistics import Need, Statistics
from qmnv3.quant.fake_quant import FakeQuantize, QuantWeight, fake_quant
from qmnv3.quant.state import State, grid_state, layer_state, restore_grid, restore_layer

REPORT = "reconstruction"
_LOG = logging.getLogger(__name__)
# A layer learns only if it sees this many positions per input: a pooled tensor has one per image.
_POSITIONS_PER_INPUT = 4
# One batch in so many judges what the others taught.
_JUDGES = 5


@dataclass(frozen=True)
class ReconstructedBlock:
    """Predicted KL divergence at a block's output before and after learning, on images not learned from.

    `taken` says whether the block kept what it learned.
    """

    block: str
    layers: int
    kl_before: float
    kl_after: float
    taken: bool


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics of the float network."""
    return frozenset({"fisher"})


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Reconstruct every block; `graph.meta["reconstruction"]` gets one row for each.

    With a folder in `graph.meta[checkpoints.FOLDER]` every finished block is kept there, and a run that was
    killed continues with the block it was in, to the same result.
    """
    blocks = find_blocks(graph)
    folder = graph.meta.get(FOLDER)
    run = fingerprint(graph, statistics.images, config) if folder else {}
    checkpoints = Checkpoints(folder, run)
    if (kept := checkpoints.describe(len(blocks))) is not None:
        _LOG.warning("%s", kept)
    steps = config.reconstruction.steps
    rows = []
    with (
        Paired(graph, statistics) as paired,
        progress("reconstructing", len(blocks) * steps) as advance,
    ):
        paired.kept.add(blocks[0].start.name)
        for node in graph.graph.nodes:
            paired.execute(node)
            if node is blocks[0].start:
                break
        for index, block in enumerate(blocks):
            paired.kept.add(block.end.name)
            saved = checkpoints.load(index)
            if saved is not None:
                _restore(graph, block, saved)
                _run(paired, block, correct_biases=False)
                rows.append(_row(block, saved["kl"]))
                advance(steps)
            else:
                kl = _reconstruct(paired, block, statistics, config, index, advance)
                checkpoints.save(index, _state(graph, block) | {"kl": kl})
                rows.append(_row(block, kl))
            paired.release(block.start)
    graph.meta[REPORT] = [asdict(row) for row in rows]
    return graph


def _row(block: Block, kl: torch.Tensor) -> ReconstructedBlock:
    before, after = (float(value) for value in kl)
    return ReconstructedBlock(block.site.name, block.layers, before, after, after < before)


def _reconstruct(
    paired: Paired, block: Block, statistics: Statistics, config: PtqConfig, index: int, advance: Advance
) -> torch.Tensor:
    """Let one block learn; returns the KL divergence before and after [2]. Its output is up to date after."""
    graph = paired.graph
    fisher = statistics.fisher(block.site)
    # What came before may have changed: without this the block would first learn to undo the change.
    _run(paired, block, correct_biases=True)
    untaught = _state(graph, block)
    before = _judge(paired, block, fisher)
    generator = torch.Generator().manual_seed((config.seed + 7919 * index) % 2**63)
    _learn(paired, block, fisher, config.reconstruction, generator, advance)
    _run(paired, block, correct_biases=True)
    after = _judge(paired, block, fisher)
    if not after < before:
        _restore(graph, block, untaught)
        _run(paired, block, correct_biases=False)
    return torch.tensor([before, after], dtype=torch.float64)


def _run(paired: Paired, block: Block, *, correct_biases: bool) -> None:
    for node in block.nodes:
        paired.execute(node, correct_biases=correct_biases)


def _judges(batches: int) -> range:
    """The batches that judge; a single one judges what it taught itself."""
    return range(0, batches, _JUDGES) if batches > 1 else range(1)


@torch.inference_mode()
def _judge(paired: Paired, block: Block, fisher: torch.Tensor) -> float:
    """Predicted KL divergence of the block's output as it is."""
    losses = []
    for index in _judges(paired.batches):
        output = paired.quantized(block.end)[index].load()
        loss = _loss(block, fisher, output, paired.exact(block.end, index))
        losses.append((loss.item(), len(output)))
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def _loss(block: Block, fisher: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL divergence of the logits, or elsewhere what the squared error is predicted to cause."""
    if block.last:
        exact = target.flatten(1).log_softmax(1)
        return (exact.exp() * (exact - output.flatten(1).log_softmax(1))).sum(1).mean()
    squared = (output - target).square()
    return ((squared.mean((2, 3)) if squared.dim() == 4 else squared) @ fisher).mean() / 2.0


def _learn(
    paired: Paired,
    block: Block,
    fisher: torch.Tensor,
    config: ReconstructionConfig,
    generator: torch.Generator,
    advance: Advance,
) -> None:
    grids, layers = _learnable(paired, block, config)
    optimizer = torch.optim.Adam(_parameters(paired, grids, layers, config))
    rates = [group["lr"] for group in optimizer.param_groups]
    judges = _judges(paired.batches)
    teachers = [index for index in range(paired.batches) if index not in judges] or [0]
    order: list[int] = []
    with fake_quant(paired.graph):
        for step in range(config.steps):
            order = order or torch.randperm(len(teachers), generator=generator).tolist()
            batch = teachers[order.pop()]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
            given = _mixed(paired, block.start, batch, config.drop, generator)
            output = _forward(paired.graph, block, given, grids, layers, config.drop, generator)
            optimizer.zero_grad()
            # Clones: tensors from inference mode cannot be saved for the backward pass.
            target = paired.exact(block.end, batch).clone()
            _loss(block, fisher, output, target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            for grid in grids.values():
                grid.project()
            for layer in layers.values():
                layer.project()
            advance(1)
    for grid in grids.values():
        grid.site.qparams = grid.qparams
    for layer in layers.values():
        layer.write()


def _learnable(
    paired: Paired, block: Block, config: ReconstructionConfig
) -> tuple[dict[fx.Node, LearnedGrid], dict[fx.Node, LearnedLayer]]:
    """What may change inside the block: grids that are neither fixed nor floored, layers that see enough."""
    floored = {floor.site for floor in paired.graph.meta.get(FLOORED, ())}
    images = sum(len(stored.load()) for stored in paired.quantized(block.start))
    grids, layers = {}, {}
    for node in block.nodes:
        module = paired.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, FakeQuantize) and not module.fixed and module.site not in floored:
            grids[node] = LearnedGrid(module)
        called = paired.layer(node)
        if called is not None:
            quantized, site = called
            positions = images * math.prod(site.output_shape[2:])
            if positions >= _POSITIONS_PER_INPUT * quantized.layer.weight[0].numel():
                layers[node] = LearnedLayer(quantized, config.most_steps)
    return grids, layers


def _parameters(
    paired: Paired,
    grids: dict[fx.Node, LearnedGrid],
    layers: dict[fx.Node, LearnedLayer],
    config: ReconstructionConfig,
) -> list[dict[str, object]]:
    """Adam's parameter groups, each in units in which its rate means the same everywhere."""
    groups: list[dict[str, object]] = []
    for node, layer in layers.items():
        called = paired.layer(node)
        assert called is not None
        output = called[1].fake_quant.qparams
        groups.append({"params": [layer.steps], "lr": config.weight_rate})
        if layer.bias is not None and output is not None:
            groups.append({"params": [layer.bias], "lr": config.bias_rate * float(output.scale)})
    for grid in grids.values():
        groups.append({"params": [grid.log_scale], "lr": config.range_rate})
        if grid.shifts:
            levels = grid.qparams.qmax - grid.qparams.qmin
            groups.append({"params": [grid.zero_point], "lr": config.range_rate * levels})
    return groups


def _mixed(
    paired: Paired, start: fx.Node, batch: int, drop: float, generator: torch.Generator
) -> torch.Tensor:
    """The block's input, as quantized, with a share `drop` of its values as in the float network."""
    quantized = paired.quantized(start)[batch].load().clone()
    if drop == 0.0:
        return quantized
    exact = paired.exact(start, batch).clone()
    return torch.where(random_mask(exact, drop, generator), exact, quantized)


def _forward(
    graph: fx.GraphModule,
    block: Block,
    given: torch.Tensor,
    grids: dict[fx.Node, LearnedGrid],
    layers: dict[fx.Node, LearnedLayer],
    drop: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """The block's output with everything learnable in place of its own."""
    values = {block.start: given}
    for node in block.nodes:
        if node in grids:
            # The block's own output is what counts: it is rounded as it will be.
            dropped = 0.0 if node is block.end else drop
            values[node] = grids[node](values[node.args[0]], dropped, generator)  # type: ignore[index]
        elif node in layers:
            values[node] = layers[node](values[node.args[0]])  # type: ignore[index]
        else:
            values[node] = run_node(graph, node, values.__getitem__)
    return values[block.end]


def _state(graph: fx.GraphModule, block: Block) -> State:
    """Everything learning may change in the block."""
    state: State = {}
    for name, module in _modules(graph, block):
        if isinstance(module, QuantWeight):
            state |= layer_state(name, module)
        else:
            state |= grid_state(name, module)
    return state


def _restore(graph: fx.GraphModule, block: Block, state: State) -> None:
    for name, module in _modules(graph, block):
        if isinstance(module, QuantWeight):
            restore_layer(name, module, state)
        else:
            restore_grid(name, module, state)


def _modules(graph: fx.GraphModule, block: Block) -> list[tuple[str, QuantWeight | FakeQuantize]]:
    found = []
    for node in block.nodes:
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, QuantWeight | FakeQuantize):
            found.append((str(node.target), module))
    return found
