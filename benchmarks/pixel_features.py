"""Other features for the Pixel predictor and how far each set is off: a table of docs/prediction.md.

    python -m benchmarks.pixel_features

Kernel sizes, channels and kinds of operations are counted on the float graphs of all published networks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace

from benchmarks.pixel_predictor import describe_network
from device_eval.lint.description import LAYERS, Model, Op
from device_eval.predictor.costs import COMPOSED, Cost, op_cost, total
from device_eval.predictor.fit import MILLION, Fit, fit
from device_eval.predictor.published import Published, placements, published


@dataclass(frozen=True)
class Counted:
    """What may matter of one operation. `channels` are the fewer of a layer's inputs and outputs."""

    kind: str
    kernel: int
    channels: int
    after_pooling: bool
    cost: Cost


Feature = Callable[[list[Counted]], float]
Holds = Callable[[Counted], bool]


@dataclass(frozen=True)
class Costs(Cost):
    """Costs of a network that `fit` finds other features in."""

    amounts: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float:
        try:
            return self.amounts[name]
        except KeyError:
            raise AttributeError(name) from None


def _all(_: Counted) -> bool:
    return True


def _is_layer(op: Counted) -> bool:
    return op.kind in LAYERS


def _depthwise(op: Counted) -> bool:
    return op.kind == "DepthwiseConv"


def _sum(measure: str, holds: Holds = _all) -> Feature:
    return lambda ops: sum(getattr(op.cost, measure) for op in ops if holds(op))


def _number(holds: Holds = _all) -> Feature:
    return lambda ops: MILLION * sum(map(holds, ops))


def _hard_swish(elements: int) -> Feature:
    """Activations where an h-swish moves so many elements for each of its own, not 5."""

    def activations(ops: list[Counted]) -> float:
        counted = elements / COMPOSED["HardSwish"]
        return sum(op.cost.activations * (counted if op.kind == "HardSwish" else 1.0) for op in ops)

    return activations


USED: dict[str, Feature] = {name: _sum(name) for name in ("macs", "activations", "constants")}


def _apart(measure: str, *parts: Holds) -> dict[str, Feature]:
    """The features used, with each part of one of them priced apart from the others and from the rest."""
    rest = _sum(measure, lambda op: not any(holds(op) for holds in parts))
    own = {f"{measure} {i}": _sum(measure, holds) for i, holds in enumerate(parts)}
    return {**USED, measure: rest, **own}


def _kernel(size: int) -> Holds:
    return lambda op: _depthwise(op) and op.kernel == size


def _narrow(channels: int) -> Holds:
    return lambda op: _is_layer(op) and op.channels < channels


TRIED: dict[str, dict[str, Feature]] = {
    "the three used": USED,
    "a fixed time": {**USED, "fixed": lambda ops: MILLION},
    "number of operations": {**USED, "operations": _number()},
    "number of layers": {**USED, "layers": _number(_is_layer)},
    "number of depthwise layers": {**USED, "layers": _number(_depthwise)},
    "activations of layers apart": _apart("activations", _is_layer),
    "activations of h-swish apart": _apart("activations", lambda op: op.kind == "HardSwish"),
    "activations of additions apart": _apart("activations", lambda op: op.kind == "Add"),
    "MACs of depthwise layers apart": _apart("macs", _depthwise),
    "MACs of depthwise 5x5 apart": _apart("macs", _kernel(5)),
    "MACs of depthwise 3x3 and 5x5, each apart": _apart("macs", _kernel(3), _kernel(5)),
    "MACs of the stem and of depthwise layers, each apart": _apart(
        "macs", lambda op: op.kind == "Conv" and op.kernel > 1, _depthwise
    ),
    **{f"MACs of layers of fewer than {n} channels apart": _apart("macs", _narrow(n)) for n in (16, 32, 64)},
    "MACs of depthwise layers of fewer than 96 channels apart": _apart(
        "macs", lambda op: _depthwise(op) and op.channels < 96
    ),
    "constants of layers after pooling apart": _apart("constants", lambda op: op.after_pooling),
    **{f"h-swish moves {n} elements, not 5": {**USED, "activations": _hard_swish(n)} for n in (2, 3, 7)},
}


def count(model: Model) -> list[Counted]:
    """Every operation of a described float graph."""
    return [_counted(model, op) for op in model.ops]


def _counted(model: Model, op: Op) -> Counted:
    x, output = model.input(op, 0), model.output(op)
    weight = model.input(op, 1) if op.kind in LAYERS else None
    assert x is not None and output is not None
    kernel = weight.shape[1] if weight is not None and len(weight.shape) == 4 else 1
    pooled = weight is not None and all(side == 1 for side in output.shape[1:-1])
    return Counted(op.kind, kernel, min(x.shape[-1], output.shape[-1]), pooled, op_cost(model, op))


def fits() -> Iterator[tuple[str, Fit, float]]:
    """Each set of features, its fit to a Pixel 1 in float, and its largest error on Table 5, never fitted."""
    rows, unfitted = published(1, "float32"), placements()
    networks = dict.fromkeys(row.network for row in (*rows, *unfitted))
    counted = {network: count(describe_network(network)) for network in networks}
    for name, features in TRIED.items():

        def with_amounts(row: Published, features: dict[str, Feature] = features) -> Published:
            ops = counted[row.network]
            # A feature that is told in parts is not Cost's own of that name.
            amounts = {f"tried {each}": amount(ops) for each, amount in features.items()}
            whole = total(op.cost for op in ops)
            costs = {each.name: getattr(whole, each.name) for each in fields(Cost)}
            return replace(row, cost=Costs(**costs, amounts=amounts))

        found = fit(tuple(map(with_amounts, rows)), [f"tried {each}" for each in features])
        worst = max(abs(found.ms(row.cost) / row.ms - 1) for row in map(with_amounts, unfitted))
        yield name, found, worst


def table() -> str:
    """All sets of features in Markdown."""
    lines = [
        "| features | median % | worst % | all resolutions left out, worst % | Table 5, worst % |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, found, table5 in fits():
        errors = (found.leave_one_out.median, found.leave_one_out.worst, found.families["resolutions"].worst)
        lines.append(f"| {name} | " + " | ".join(f"{100 * error:.1f}" for error in (*errors, table5)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
