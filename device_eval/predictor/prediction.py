"""Predictions for a model: a RUN, a file, or a QuantGraph."""

from collections import Counter
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from device_eval.lint.description import LAYERS, Model
from device_eval.lint.readers import read_model
from device_eval.lint.readers.run import describe_graph
from device_eval.predictor.costs import Cost, nbytes, op_cost, total
from device_eval.predictor.fit import FEATURES, Errors, Fit, fitted
from device_eval.predictor.published import PIXELS, Pixel, Precision
from qmnv3.errors import ModelFileError
from qmnv3.ir import QuantGraph
from qmnv3.runs import FLOAT32, INT8, load_run_graph

# Operations that the fitted networks have, or that cost next to nothing.
_FAMILIAR = {*LAYERS, "Add", "Mul", "HardSwish", "HardSigmoid", "Mean", "Relu", "Relu6", "Clip", "Reshape"}
_FAMILIAR |= {"Quantize", "Dequantize", "Cast", "Pad", "Softmax", "AveragePool", "MaxPool", "Sub", "Logistic"}
_SIGMOIDS = {
    "float32": "counted by the elements it moves, which dominate in float according to the paper (5.2)",
    "int8": "counted so that V3-Large with swish for h-swish takes 15 % longer, as the paper says (5.2)",
}
# Further outside what was fitted than this factor, a prediction is an extrapolation.
_NEAR = 1.25
_WORDS = {"macs": "multiply-adds", "activations": "activations moved", "constants": "constants"}


@dataclass(frozen=True)
class DevicePrediction:
    """Predicted latency on one large core of a Pixel at batch 1, in milliseconds.

    `interval_ms` holds in about a share `coverage` of cases, for networks like the fitted. `by_kind_ms` adds
    up to `predicted_ms`. `fitted_to` counts published latencies; errors are of networks left out of the fit.
    """

    pixel: Pixel
    predicted_ms: float
    interval_ms: tuple[float, float]
    coverage: float
    by_kind_ms: dict[str, float]
    fitted_to: int
    leave_one_out: Errors
    families: dict[str, Errors]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"device": f"Pixel {self.pixel}", **asdict(self)}
        del own["pixel"]
        own["leave_one_out"] = _summary(self.leave_one_out)
        own["families_left_out"] = {name: _summary(errors) for name, errors in self.families.items()}
        del own["families"]
        return own


@dataclass(frozen=True)
class Prediction:
    """Everything predicted for one model. `by_kind` are costs by kind of operation, `counts` how many.

    `weight_bytes` is the size of all constants. `notes` say what makes the prediction doubtful.
    """

    path: Path
    precision: Precision
    counts: dict[str, int]
    by_kind: dict[str, Cost]
    weight_bytes: int
    devices: tuple[DevicePrediction, ...]
    notes: tuple[str, ...]

    @property
    def cost(self) -> Cost:
        """Cost of the whole model."""
        return total(self.by_kind.values())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "path": str(self.path),
            "precision": self.precision,
            **asdict(self.cost),
            "weight_bytes": self.weight_bytes,
            "by_kind": {
                kind: {"operations": self.counts[kind], **asdict(cost)} for kind, cost in self.by_kind.items()
            },
            "predicted": [device.to_json() for device in self.devices],
            "notes": list(self.notes),
        }


def predict_path(path: Path) -> tuple[Prediction, ...]:
    """Predictions for a .tflite or .onnx file; for a RUN, of its float parent and of its integers.

    Raises ModelFileError for anything that is no such model, GraphError for a folder that is no RUN.
    """
    if path.is_dir():
        return tuple(predict_graph(load_run_graph(path, name), path) for name in (FLOAT32, INT8))
    return (predict(read_model(path)),)


def predict_graph(graph: QuantGraph, path: Path) -> Prediction:
    """Prediction for a canonical graph, float or integer; `path` is its name for people."""
    return predict(describe_graph(graph, path))


def predict(model: Model) -> Prediction:
    """Prediction for a described model; ModelFileError when its shapes are not fixed."""
    _check_input(model)
    by_kind: dict[str, Cost] = {}
    for op in model.ops:
        by_kind[op.kind] = by_kind.get(op.kind, Cost()) + op_cost(model, op)
    by_kind = dict(sorted(by_kind.items(), key=lambda item: -item[1].macs - item[1].activations))
    counts = Counter(op.kind for op in model.ops)
    precision = _precision(model)
    fits = {pixel: fitted(pixel, precision) for pixel in PIXELS}
    return Prediction(
        model.path,
        precision,
        {kind: counts[kind] for kind in by_kind},
        by_kind,
        _weight_bytes(model),
        tuple(_device(pixel, fit, by_kind) for pixel, fit in fits.items()),
        tuple(_notes(model, counts, total(by_kind.values()), fits[1], precision)),
    )


def _device(pixel: Pixel, fit: Fit, by_kind: dict[str, Cost]) -> DevicePrediction:
    cost = total(by_kind.values())
    return DevicePrediction(
        pixel,
        fit.ms(cost),
        fit.interval_ms(cost),
        fit.coverage,
        {kind: fit.ms(cost) for kind, cost in by_kind.items()},
        len(fit.rows),
        fit.leave_one_out,
        fit.families,
    )


def _weight_bytes(model: Model) -> int:
    read = {name: model.tensors[name] for op in model.ops for name in op.inputs if name in model.tensors}
    return sum(nbytes(tensor) for tensor in read.values() if tensor.data is not None)


def _check_input(model: Model) -> None:
    """A file with an open resolution has an input of one pixel in its description."""
    for name in model.inputs:
        shape = model.tensors[name].shape
        if len(shape) == 4 and prod(shape) == max(shape):
            raise ModelFileError(f"{model.path}: input {name} has no fixed size; export it with a fixed one")


def _precision(model: Model) -> Precision:
    """What most multiply-adds are done in."""
    macs = {True: 0, False: 0}
    for op in model.ops:
        output = model.output(op)
        integer = output is not None and output.quantized and op.float_reason is None
        macs[integer] += op_cost(model, op).macs
    return "int8" if macs[True] > macs[False] else "float32"


def _notes(model: Model, counts: Counter[str], cost: Cost, fit: Fit, precision: Precision) -> list[str]:
    notes = []
    for name in FEATURES[precision]:
        known = [getattr(row.cost, name) / 1e6 for row in fit.rows]
        value = getattr(cost, name) / 1e6
        if not min(known) / _NEAR <= value <= max(known) * _NEAR:
            notes.append(
                f"extrapolated: {value:.3g} million {_WORDS[name]}, the fitted networks have "
                f"{min(known):.3g} to {max(known):.3g}"
            )
    if counts["Logistic"]:
        notes.append(
            f"{counts['Logistic']} Logistic: no latency of swish was published; {_SIGMOIDS[precision]}"
        )
    strange = [f"{count} {kind}" for kind, count in counts.items() if kind not in _FAMILIAR]
    if strange:
        notes.append(
            f"counted only by the elements they move, no fitted network has them: {', '.join(strange)}"
        )
    wide = sum(any(t.is_16_bit for t in model.operands(op)) for op in model.ops)
    if wide:
        notes.append(f"{wide} operations in 16 bits are counted as if they were in 8; none was published")
    if precision == "int8":
        notes.append(f"8 bits: fitted to only {len(fit.rows)} published latencies; read the interval")
    return notes


def _summary(errors: Errors) -> dict[str, float]:
    return {"median_percent": 100 * errors.median, "worst_percent": 100 * errors.worst}
