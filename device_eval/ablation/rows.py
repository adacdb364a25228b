"""The table of an ablation: one row for every file of every cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device_eval.ablation.paper import Published, published, statements

TEXT_COLUMNS = ("variant", "file")


@dataclass(frozen=True)
class Row:
    """One file of one network. `form` is "float32", or "int8" and how its nonlinearities are lowered.

    `measured_ms` are medians by runtime, `ratios` those to the first variant's first int8 file of the same
    width and resolution, `noisy` the runtimes with unsteady samples. `predicted_ms` is for a Pixel 1 in the
    software of the paper; `paper` what the paper published for this network in this precision. None where
    an axis was left out.
    """

    variant: str
    curves: tuple[str, ...]
    width: float
    resolution: int
    form: str
    size_bytes: int | None = None
    madds: int | None = None
    params: int | None = None
    partitions: int | None = None
    measured_ms: Mapping[str, float] | None = None
    ratios: Mapping[str, float] | None = None
    noisy: frozenset[str] = frozenset()
    predicted_ms: float | None = None
    top1_percent: tuple[float, float, float] | None = None
    paper: Published | None = None


def rows_of(cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of finished cells, in their order; a cell is as `qmnv3 ablate` writes it into its JSON."""
    return [row for cell in cells for row in _rows(cell)]


def _rows(cell: Mapping[str, Any]) -> list[Row]:
    built, latency, accuracy = cell.get("size"), cell.get("latency"), cell.get("accuracy")
    files = built["files"] if built else []
    forms = [file["form"] for file in files] or list(accuracy["top1"] if accuracy else ())
    rows = []
    for index, form in enumerate(forms):
        precision = form.split()[0]
        top1 = accuracy["top1"].get(form) if accuracy else None
        taken = [entry for entry in latency["latencies"] if entry["form"] == form] if latency else []
        rows.append(
            Row(
                cell["variant"],
                tuple(cell["curves"]),
                cell["width"],
                cell["resolution"],
                form,
                size_bytes=files[index]["size_bytes"] if files else None,
                madds=built["madds"] if built else None,
                params=built["params"] if built else None,
                partitions=files[index]["partitions"] if files else None,
                measured_ms={entry["runtime"]: entry["p50_us"] / 1000 for entry in taken} or None,
                ratios={entry["runtime"]: entry["ratio"] for entry in taken if entry["ratio"]} or None,
                noisy=frozenset(e["runtime"] for e in taken if e["verdict"].startswith("noisy")),
                predicted_ms=files[index]["predicted_pixel1_ms"] if files else None,
                top1_percent=None if top1 is None else (top1["estimate"], top1["low"], top1["high"]),
                paper=published(cell["model"], cell["options"], cell["width"], cell["resolution"], precision),
            )
        )
    return rows


def table_of(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and text, without columns in which nothing is known. "~" marks unsteady samples."""
    runtimes = list(dict.fromkeys(name for row in rows for name in row.measured_ms or {}))
    records = [_record(row, runtimes) for row in rows]
    headings = [name for name in (records[0] if records else {}) if any(record[name] for record in records)]
    return headings, [[record[name] for name in headings] for record in records]


def _record(row: Row, runtimes: Sequence[str]) -> dict[str, str]:
    top1 = row.top1_percent
    return {
        "variant": row.variant,
        "width": f"{row.width:g}",
        "px": str(row.resolution),
        "file": row.form,
        "M MAdds": "" if row.madds is None else f"{row.madds / 1e6:.1f}",
        "M params": "" if row.params is None else f"{row.params / 1e6:.2f}",
        "KiB": "" if row.size_bytes is None else f"{row.size_bytes / 1024:.0f}",
        "pieces": "" if row.partitions is None else str(row.partitions),
        **{f"{name} ms (ratio)": _latency(row, name) for name in runtimes},
        "predicted Pixel 1 ms": "" if row.predicted_ms is None else f"{row.predicted_ms:.1f}",
        "paper Pixel 1 ms": "" if row.paper is None else f"{row.paper.pixel1_ms:g}",
        "top-1 %": "" if top1 is None else f"{top1[0]:.1f} [{top1[1]:.1f}, {top1[2]:.1f}]",
        "paper top-1 %": "" if row.paper is None else f"{row.paper.top1_percent:g}",
    }


def _latency(row: Row, runtime: str) -> str:
    value, ratio = (row.measured_ms or {}).get(runtime), (row.ratios or {}).get(runtime)
    if value is None:
        return ""
    return f"{'~' * (runtime in row.noisy)}{value:.2f}" + ("" if ratio is None else f" ({ratio:.2f})")


def to_markdown(rows: Sequence[Row], failures: Mapping[str, str], device: str, claimed: Sequence[str]) -> str:
    """The whole result as text: table, what failed, what the paper says about the parts."""
    headings, records = table_of(rows)
    lines = [
        f"Latency measured on {device}, batch 1, medians. Pixel 1 figures are predicted, not measured; the",
        "paper's are its own. Ratios are to the first variant's first int8 file of the same size; ~ marks",
        "unsteady samples, pieces are what XNNPACK cuts the graph into. top-1 is of networks trained anew.",
        "",
        "| " + " | ".join(headings) + " |",
        "| " + " | ".join("---" if name in TEXT_COLUMNS else "---:" for name in headings) + " |",
        *("| " + " | ".join(record) + " |" for record in records),
    ]
    if claimed:
        lines += ["", "Without a component, against the first variant, and what the paper says of it:", ""]
        lines += [f"- {claim}" for claim in claimed]
    if failures:
        lines += ["", "Failed:", "", *(f"- {name}: {reason}" for name, reason in failures.items())]
    return "\n".join(lines) + "\n"


def claims(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each component with a `claim` adds to the first cell, beside what the paper says it does.

    MAdds of the first variant less those of the one without the component, in millions; its predicted
    float latency on a Pixel 1 likewise.
    """
    found = []
    first = next((cell for cell in cells if cell.get("size")), None)
    for cell in cells:
        if first is None or not cell.get("claim") or not cell.get("size"):
            continue
        if (cell["width"], cell["resolution"]) != (first["width"], first["resolution"]):
            continue
        madds = (first["size"]["madds"] - cell["size"]["madds"]) / 1e6
        with_, without = (_predicted(part) for part in (first, cell))
        latency = ""
        if with_ is not None and without is not None:
            change = with_ - without
            latency = f", {change:+.1f} ms ({100 * change / without:+.0f} %) predicted"
        said = ", ".join(
            f"{statement.change:+g} {statement.unit} {statement.quantity}"
            for statement in statements(cell["claim"])
        )
        found.append(f"{cell['variant']}: {cell['claim']}: {madds:+.1f} M MAdds{latency}; paper: {said}")
    return found


def _predicted(cell: Mapping[str, Any]) -> float | None:
    for file in cell["size"]["files"]:
        if file["form"] == "float32":
            return float(file["predicted_pixel1_ms"])
    return None
