"""The latency of a cell: its files in turns, and in turns with what they are compared with."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device_eval.latency import Plan, benchmark
from device_eval.latency.result import Device, Report
from qmnv3.cli.ablate_cell import CellJob, Record, Result
from qmnv3.cli.ablate_export import FLOAT, size


def latency(
    job: CellJob,
    baseline: CellJob | None,
    device: Device,
    identity: Mapping[str, str],
    plan: Plan,
    report: Report,
) -> Result:
    """Time the cell's files, and in turns with them the first int8 file of `baseline`; ratios are to it.

    What was noisy when it was measured before, that baseline included, is measured again. `identity` is the
    device's.
    """
    files = {job.folder / file["file"]: file["form"] for file in size(job)["files"]}
    reference = None
    if baseline is not None:
        reference = baseline.folder / next(f["file"] for f in size(baseline)["files"] if f["form"] != FLOAT)
    settings = {
        **job.cell.network,
        "lowerings": list(job.config.lowerings),
        "baseline": None if baseline is None else baseline.cell.network,
        "plan": asdict(plan),
        "device": dict(identity),
    }

    def measure() -> Result:
        extra = [] if reference is None or reference in files else [reference]
        measured = benchmark([*extra, *files], plan, device, report)
        entries = measured.to_json()["latencies"]
        compared = [entry for entry in entries if Path(entry["path"]) == reference]
        first = {entry["runtime"]: entry["p50_us"] for entry in compared if not _is_noisy(entry)}
        taken = [entry for entry in entries if Path(entry["path"]) in files]
        for entry in taken:
            entry["form"] = files[Path(entry["path"])]
            entry["ratio"] = entry["p50_us"] / first[entry["runtime"]] if entry["runtime"] in first else None
            # Those to whatever file came first say nothing here.
            del entry["ratio_p50"], entry["path"]
        refusals = [
            {"form": files[r.path], "runtime": r.runtime, "reason": r.reason.removeprefix(f"{r.path}: ")}
            for r in measured.measurement.refusals
            if r.path in files
        ]
        return {
            "latencies": taken,
            "noisy_baseline": any(map(_is_noisy, compared)),
            "refusals": refusals,
            "conditions": dict(measured.measurement.conditions),
        }

    return Record(job.folder, "latency", settings).read_or_make(measure, _noisy)


def _noisy(result: Result) -> bool:
    return result["noisy_baseline"] or any(map(_is_noisy, result["latencies"]))


def _is_noisy(entry: Mapping[str, Any]) -> bool:
    return bool(entry["verdict"].startswith("noisy"))
