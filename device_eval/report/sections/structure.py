"""How a runtime cuts each file, and what each h-swish became in it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from device_eval.lint.description import Model, short
from device_eval.lint.patterns import HardSwishSite, hard_swish_sites
from device_eval.partitions import Partitions
from device_eval.report import records
from device_eval.report.document import Cell, Column, Missing, Section, Status, Table, Verdict
from device_eval.report.evidence import Evidence

PARTITIONS, H_SWISH = "Partitions", "h-swish sites"
_FORMS = {
    "Add": "saturating ADD, MUL",
    "DepthwiseConv": "1x1 depthwise convolution, MUL (equalized)",
    "HardSigmoid": "hard-sigmoid, MUL",
}


def partitions(evidence: Evidence) -> Section | Missing:
    """From the files themselves, and from what `qmnv3 bench` read of files that are not given."""
    cut = _cut(evidence)
    floats = _left_in_float(evidence)
    if not cut and not floats:
        return Missing(PARTITIONS, "a .tflite or .onnx file, or qmnv3 bench --json")
    tables = []
    if cut:
        columns = (
            Column("model", "model"),
            Column("partitions", "partitions", "d"),
            Column("delegated", "operations inside", "d"),
            Column("outside", "outside", "d"),
            Column("outside_names", "which"),
        )
        tables.append(
            Table(
                "LiteRT's XNNPACK delegate (a RUN as exported for it)",
                columns,
                tuple(_row(*item) for item in cut.items()),
            )
        )
    if floats:
        heads = (
            Column("model", "model"),
            Column("float_operations", "still float", "d"),
            Column("float_names", "which"),
        )
        rows = tuple((path, sum(ops.values()), counts(ops)) for path, ops in floats.items())
        tables.append(Table("Operations that ONNX Runtime's optimizer leaves in float", heads, rows))
    return Section("partitions", PARTITIONS, tables=tuple(tables))


def h_swish(evidence: Evidence) -> Section | Missing:
    """From quantized files."""
    found = [(read.model, site) for read in evidence.models for site in hard_swish_sites(read.model)]
    if not found:
        return Missing(H_SWISH, "a quantized .tflite or .onnx file or a RUN folder with h-swish in it")
    columns = (
        Column("model", "model"),
        Column("operation", "operation", "d"),
        Column("output", "output"),
        Column("lowering", "lowering"),
        Column("scale", "scale of input", ".3g"),
        Column("low", "input from", ".3g"),
        Column("high", "to", ".3g"),
        Column("xnnpack", "in XNNPACK"),
    )
    forms = Counter((str(model.path), form(model, site)) for model, site in found)
    summary = tuple((path, name, count) for (path, name), count in forms.items())
    heads = (Column("model", "model"), Column("lowering", "lowering"), Column("sites", "sites", "d"))
    tables = (
        Table("Lowering", heads, summary),
        Table("Every site", columns, tuple(_site(model, site) for model, site in found)),
    )
    return Section("h-swish", H_SWISH, tables=tables)


def verdicts(evidence: Evidence) -> list[Verdict]:
    """One line for each file that the delegate cuts or refuses, or that stays whole."""
    found = [Verdict(*_judge(path, cut)) for path, cut in _cut(evidence).items()]
    for path, ops in _left_in_float(evidence).items():
        status: Status = "warning" if ops else "good"
        found.append(Verdict(status, f"integers of {path}", f"{counts(ops) or 'nothing'} left in float"))
    return found


def form(model: Model, site: HardSwishSite) -> str:
    """What an h-swish became, for people."""
    producer = model.producer(site.gate.name) if site.gate is not None else None
    return (
        _FORMS.get(producer.kind, producer.native) if producer is not None else f"{site.op.native} operation"
    )


def counts(ops: Mapping[str, int]) -> str:
    """ "19 HARD_SWISH, 1 MUL"."""
    return ", ".join(f"{count} {name}" for name, count in ops.items())


def _cut(evidence: Evidence) -> dict[str, Partitions | records.Partitions]:
    """By path; the files themselves come before what a benchmark read of them."""
    cut: dict[str, Partitions | records.Partitions] = {
        str(read.path): read.model.partitions for read in evidence.models if read.model.partitions is not None
    }
    for benchmark in evidence.of(records.Benchmark):
        for model in benchmark.models:
            if model.partitions is not None and not _is_given(model.path, evidence):
                cut.setdefault(model.path, model.partitions)
    return cut


def _left_in_float(evidence: Evidence) -> dict[str, Mapping[str, int]]:
    """Of quantized .onnx files, by path: operations by name."""
    left: dict[str, Mapping[str, int]] = {
        str(read.path): read.model.runtime_floats
        for read in evidence.models
        if read.lint is not None and read.model.runtime_floats is not None
    }
    for benchmark in evidence.of(records.Benchmark):
        for model in benchmark.models:
            quantized = any("Linear" in name for name in model.op_counts)
            if model.float_ops is not None and quantized and not _is_given(model.path, evidence):
                left.setdefault(model.path, model.float_ops)
    return left


def _is_given(path: str, evidence: Evidence) -> bool:
    return any(Path(path) == read.path for read in evidence.models)


def _row(path: str, cut: Partitions | records.Partitions) -> tuple[Cell, ...]:
    outside = Counter(name for _, name in cut.undelegated)
    named = f"refused: {cut.refused}" if cut.refused is not None else counts(dict(outside.most_common()))
    return path, cut.count, cut.delegated_ops, len(cut.undelegated), named


def _judge(path: str, cut: Partitions | records.Partitions) -> tuple[Status, str, str]:
    subject = f"partitions of {path}"
    if cut.refused is not None:
        return "bad", subject, "XNNPACK refuses the model"
    outside = Counter(name for _, name in cut.undelegated)
    if cut.count == 1 and not outside:
        return "good", subject, f"one, with all {cut.delegated_ops} operations"
    named = counts(dict(outside.most_common(3)))
    return "warning", subject, f"{cut.count}; outside XNNPACK: {named or 'nothing'}"


def _site(model: Model, site: HardSwishSite) -> tuple[Cell, ...]:
    inside: str | None = None
    if model.partitions is not None:
        outside = {index for index, _ in model.partitions.undelegated}
        inside = "no" if outside & {*site.readers, site.op.index} else "yes"
    output = short(site.op.outputs[0])
    return str(model.path), site.op.index, output, form(model, site), site.x.scale, *site.x.span, inside
