"""What the summary makes of chosen figures."""

import copy
from pathlib import Path
from typing import Any

import pytest
import result_files as files

from device_eval.report import build, gather
from device_eval.report.document import Cell, Estimate, Report, Verdict


def report(folder: Path, *values: dict[str, Any]) -> Report:
    return build(gather([files.write(folder / f"{i}.json", value) for i, value in enumerate(values)]))


def rows(made: Report, section: str, table: int = 0) -> list[dict[str, Cell]]:
    found = next(s for s in made.sections if s.id == section).tables[table]
    keys = [column.key for column in found.columns]
    return [dict(zip(keys, row, strict=True)) for row in found.rows]


# 3.6 points are what V2 0.35 loses in the paper: 60.8 in Table 3, 57.2 in Table 4.
@pytest.mark.parametrize(
    ("change", "low", "high", "status", "text"),
    [
        (-0.003, -0.017, 0.010, "open", "-0.3 [-1.7, +1.0] points"),
        (-0.010, -0.015, -0.005, "warning", "a loss beyond chance"),
        (-0.040, -0.045, -0.035, "warning", "a loss beyond chance"),
        (-0.255, -0.293, -0.037, "bad", "more than any network loses in the paper (3.6)"),
        (0.010, 0.001, 0.020, "good", "+1.0 [+0.1, +2.0] points"),
    ],
)
def test_accuracy(tmp_path: Path, change: float, low: float, high: float, status: str, text: str) -> None:
    (verdict,) = report(tmp_path, files.evaluation(change, low, high)).verdicts
    assert (verdict.status, verdict.subject) == (status, "accuracy of int8.tflite")
    assert text in verdict.text


def test_latency_is_compared_within_a_runtime(tmp_path: Path) -> None:
    measured = files.benchmark(
        files.latency("float.tflite", "xnnpack", [1900, 2000, 2100]),
        files.latency("float.tflite", "builtin", [4900, 5000, 5100]),
        files.latency("int8.tflite", "xnnpack", [900, 1000, 1100]),
        files.latency("int8.tflite", "builtin", [5900, 6000, 6100]),
    )
    fast, slow = report(tmp_path, measured).verdicts
    # Medians of resampled threes reach the smallest and the largest: 900 / 2100 and 1100 / 1900.
    text = "0.50 [0.43, 0.58] times float.tflite in xnnpack (1.00 against 2.00 ms)"
    assert fast == Verdict("good", "speed of int8.tflite", text)
    assert slow.status == "warning" and "1.20 [1.16, 1.24] times" in slow.text


@pytest.mark.parametrize("samples", [[1900, 2000, 2100], [1500, 1900, 2300]])
def test_medians_that_may_be_alike_decide_nothing(tmp_path: Path, samples: list[float]) -> None:
    measured = files.benchmark(
        files.latency("float.tflite", "xnnpack", [1900, 2000, 2100]),
        files.latency("int8.tflite", "xnnpack", samples),
    )
    (verdict,) = report(tmp_path, measured).verdicts
    assert verdict.status == "open" and verdict.text.endswith(": no difference shown")


def test_noisy_samples_decide_nothing(tmp_path: Path) -> None:
    measured = files.benchmark(
        files.latency("float.tflite", "xnnpack", [1900, 2000, 2100], verdict="noisy: drifts"),
        files.latency("int8.tflite", "xnnpack", [900, 1000, 1100]),
        refusals=[{"path": "bad.tflite", "runtime": "xnnpack", "reason": "no"}],
    )
    noisy, refused = report(tmp_path, measured).verdicts
    assert noisy.status == "open" and noisy.text.endswith("; noisy: drifts")
    assert refused == Verdict("bad", "speed of bad.tflite", "refused by xnnpack")


def partitions(**other: Any) -> dict[str, Any]:
    return {"count": 1, "delegated_ops": 9, "undelegated": [], "refused": None, **other}


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        ({"partitions": partitions()}, "good", "one, with all 9 operations"),
        (
            {"partitions": partitions(count=2, undelegated=[[4, "HARD_SWISH"], [7, "HARD_SWISH"]])},
            "warning",
            "2; outside XNNPACK: 2 HARD_SWISH",
        ),
        ({"partitions": partitions(count=0, delegated_ops=0, refused="no")}, "bad", "XNNPACK refuses"),
        ({"op_counts": {"QLinearConv": 3}, "float_ops": {"Conv": 2}}, "warning", "2 Conv left in float"),
        ({"op_counts": {"QLinearConv": 3}, "float_ops": {}}, "good", "nothing left in float"),
    ],
)
def test_structure(tmp_path: Path, given: dict[str, Any], status: str, text: str) -> None:
    model = files.structure("m.tflite", **given)
    measured = files.benchmark(files.latency("m.tflite", "xnnpack", [1, 2, 3]), models=[model])
    (verdict,) = report(tmp_path, measured).verdicts
    assert verdict.status == status and text in verdict.text


@pytest.mark.parametrize(
    ("severity", "status", "counted"),
    [("error", "bad", "1 error,"), ("warning", "warning", "1 warning,"), ("note", "good", "1 note")],
)
def test_lint(tmp_path: Path, severity: str, status: str, counted: str) -> None:
    (verdict,) = report(tmp_path, files.lint(severity=severity)).verdicts
    assert verdict.status == status and counted in verdict.text
    assert ("dead-scale" in verdict.text) == (severity != "note")


def test_table_4_stands_beside_what_was_measured_and_predicted(tmp_path: Path) -> None:
    made = report(tmp_path, files.evaluation(-0.01, -0.02, 0.0), files.prediction())
    paper, *_, measured, predicted = rows(made, "paper")
    # Table 3: 75.2 in float; Table 4: 73.8, and 57 ms on a Pixel 1.
    assert (paper["network"], paper["top1_percent"], paper["pixel1_ms"]) == ("V3-Large 1.0", 73.8, 57)
    assert paper["top1_change_points"] == pytest.approx(-1.4)
    assert (measured["network"], measured["source"]) == ("int8.tflite", "measured, 200 images")
    assert measured["top1_change_points"] == Estimate(-1.0, -2.0, 0.0)
    assert (predicted["network"], predicted["pixel1_ms"]) == ("RUN", Estimate(21.4, 18.2, 25.1))


def test_table_4_takes_checks_and_pixels(tmp_path: Path) -> None:
    measured = files.benchmark(
        files.latency("int8.tflite", "phone xnnpack", [15_000, 16_000, 19_000]),
        files.latency("float.tflite", "phone xnnpack", [21_000, 22_000, 23_000]),
        models=[files.structure("int8.tflite", quantized=True), files.structure("float.tflite")],
        device={"kind": "android", "model": "Pixel XL"},
    )
    other = measured | {"device": {"kind": "android", "model": "Pixel 3a"}, "threads": 1}
    noisy = copy.deepcopy(measured)
    noisy["device"]["model"], noisy["latencies"][0]["verdict"] = "Pixel 3", "noisy: drifts"
    made = report(tmp_path, files.evaluation(-0.01, -0.02, 0.0), files.check(), measured, other, noisy)
    ours = [row for row in rows(made, "paper") if row["source"] != "paper"]
    steady, doubtful, checked = ours
    assert steady["source"] == "measured, 200 images, phone xnnpack" and steady["pixel1_ms"] == 16
    assert doubtful["source"] == "measured, 200 images, phone xnnpack, noisy" and doubtful["pixel3_ms"] == 16
    assert steady["pixel3_ms"] is None and steady["top1_percent"] == Estimate(70, 65, 75)
    assert (checked["network"], checked["source"]) == (
        "runs/small",
        "measured, 650 images, phone xnnpack",
    )
    assert checked["pixel1_ms"] is None and checked["pixel2_ms"] == 20
    change = checked["top1_change_points"]
    assert isinstance(change, Estimate) and change.value == pytest.approx(0.2)
    assert isinstance(checked["float_top1_percent"], Estimate)
    assert checked["float_top1_percent"].value == pytest.approx(79.7)


def test_table_5_takes_ablations_of_its_networks(tmp_path: Path) -> None:
    swish = files.ablation("noisy: drifts", nonlinearity="swish@16")
    swish["cells"][0] |= {"variant": "swish@16"}
    swish["cells"][0]["latency"]["conditions"] = {"kind": "android", "model": "Pixel"}
    narrow = files.ablation(nonlinearity="relu")
    narrow["cells"][0]["width"] = 0.5
    other = files.ablation(squeeze_excite="none")
    made = report(tmp_path, files.ablation(), swish, narrow, other)
    five = [tuple(row.values()) for row in rows(made, "paper", 1) if "paper" not in str(row["source"])]
    v3, sw = "V3-hswish@80", "swish@16"
    predicted = Estimate(66, 60, 72)
    assert five == [
        (v3, "predicted, float32", None, predicted, None),
        (v3, "predicted, int8 add-mul", None, predicted, None),
        (v3, "measured, float32, LiteRT xnnpack on Some Processor", None, None, 6.0),
        (v3, "measured, int8 add-mul, LiteRT xnnpack on Some Processor", None, None, 3.6),
        (sw, "predicted, float32", None, predicted, None),
        (sw, "predicted, int8 add-mul", None, predicted, None),
        (sw, "measured, float32, LiteRT xnnpack on Pixel, noisy", None, 6.0, None),
        (sw, "measured, int8 add-mul, LiteRT xnnpack on Pixel, noisy", None, 3.6, None),
    ]


def test_table_5_takes_float_predictions_only(tmp_path: Path) -> None:
    made = report(tmp_path, files.prediction("relu", "float32"), files.prediction("int", "int8"))
    five = rows(made, "paper", 1)
    assert [row["network"] for row in five if row["source"] == "predicted"] == ["relu"]
    assert next(row for row in five if row["network"] == "ReLU")["pixel1_ms"] == 59


def test_predictions_come_with_the_errors_of_networks_left_out(tmp_path: Path) -> None:
    made = report(tmp_path, files.prediction(), files.prediction("other"), files.ablation())
    (first, _) = rows(made, "predicted")
    assert (first["left_out_median_percent"], first["left_out_worst_percent"]) == (8.6, 14.8)
    one, family = rows(made, "predicted", 1)
    assert (one["left_out"], one["worst_percent"]) == ("one network", 14.8)
    assert (family["phone"], family["precision"]) == ("Pixel 1", "int8")
    assert (family["left_out"], family["median_percent"], family["worst_percent"]) == ("V2", 9.1, 15.9)
    notes = next(section for section in made.sections if section.id == "paper").notes
    said = [note for note in notes if "8.6 % off in the median, 14.8 % at worst" in note]
    # One for each fit: the ablation's are of two phones in two precisions, one of them predict's too.
    assert len(said) == 4


def test_sections_without_data_name_their_command(tmp_path: Path) -> None:
    made = report(tmp_path, files.lint())
    assert [section.id for section in made.sections] == ["lint", "provenance"]
    commands = " ".join(missing.command for missing in made.missing)
    for command in ("eval", "bench", "sensitivity", "predict", "check", "ablate"):
        assert f"qmnv3 {command}" in commands
    assert len(made.missing) == 11


def test_inputs_of_different_commits_are_noticed(tmp_path: Path) -> None:
    other = files.prediction()
    other["environment"] = {**files.ENVIRONMENT, "git_commit": "f" * 40}
    (note,) = next(s for s in report(tmp_path, files.lint(), other).sections if s.id == "provenance").notes
    assert note == "The inputs were made with 2 different commits of qmnv3."


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("better", "good"), ("as the paper", "good"), ("worse", "warning"), ("not decidable", "open")],
)
def test_claims_of_the_paper(tmp_path: Path, verdict: str, status: str) -> None:
    made = report(tmp_path, files.check(verdict, needed=900))
    text = f"{verdict}: +0.2 [-1.2, +1.5] points, -2.5 in Tables 3 and 4"
    assert made.verdicts == (Verdict(status, "top-1, 8 bits - float, runs/small", text),)  # type: ignore[arg-type]
    (points,), (times,) = rows(made, "checks"), rows(made, "checks", 1)
    assert points["needed"] == 900 and points["here_points"] == Estimate(0.2, -1.2, 1.5)
    assert times["published_times"] == 0.98 and times["source"] == "Google's release, Pixel 1"


def test_a_claim_about_another_network_says_so(tmp_path: Path) -> None:
    check = files.check("not decidable") | {"forced": True}
    check["rows"][0]["judgement"]["reason"] = "noisy: drifts"
    made = report(tmp_path, check)
    (verdict,) = made.verdicts
    assert verdict.subject.endswith("runs/small beside small, which it is not")
    assert verdict.text.startswith("not decidable, noisy: drifts: ")
    (table, _) = next(section for section in made.sections if section.id == "checks").tables
    assert table.title == "runs/small, beside small, which it is not: points"
