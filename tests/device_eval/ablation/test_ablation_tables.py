"""The ablation's table, plot and claims from hand-made cells; the paper's figures as it prints them."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from device_eval.ablation import claims, notes_of, rows_of, table_of, to_markdown, write_plot
from device_eval.ablation.paper import Published, published
from device_eval.ablation.plot import points


def file(form: str, predicted_ms: float, partitions: int = 1, notes: tuple[str, ...] = ()) -> dict[str, Any]:
    errors = {"median_percent": 2.84, "worst_percent": 9.7}
    families = {"multipliers": {"median_percent": 4.91, "worst_percent": 15.3}, "V2": errors}
    told = {"leave_one_out": errors, "families_left_out": {} if form.startswith("int8") else families}
    return {
        "form": form,
        "size_bytes": 2048,
        "partitions": partitions,
        "refused": None,
        "predicted": [
            {"device": "Pixel 2", "predicted_ms": 1.0, "leave_one_out": {}},
            {"device": "Pixel 1", "predicted_ms": predicted_ms, **told},
        ],
        "notes": list(notes),
    }


def entry(form: str, runtime: str, p50_us: float, ratio: float | None, verdict: str = "steady") -> Any:
    return {"form": form, "runtime": runtime, "p50_us": p50_us, "ratio": ratio, "verdict": verdict}


def cell(
    variant: str, options: dict[str, Any], madds: int, width: float = 1.0, **more: Any
) -> dict[str, Any]:
    files = [
        file("float32", madds / 4e6),
        file("int8 add-mul", 9.0, 1, ("few published",)),
        file("int8 op", 9.5, 22, ("few published", "20 Logistic")),
    ]
    return {
        "variant": variant,
        "model": "large",
        "options": options,
        "width": width,
        "resolution": 224,
        "curves": [variant],
        "claim": None,
        "size": {"madds": madds, "params": 5_400_000, "files": files},
        **more,
    }


LATENCY = {
    "latencies": [
        entry("float32", "LiteRT xnnpack", 6000.0, 2.0),
        entry("int8 add-mul", "LiteRT xnnpack", 3300.0, 1.1),
        entry("int8 op", "LiteRT xnnpack", 8800.0, None, "noisy: drift"),
        entry("int8 op", "LiteRT builtin", 12000.0, 1.5),
    ],
    "refusals": [],
}
TOP1 = {"estimate": 80.0, "low": 78.0, "high": 82.0}
ACCURACY = {
    "top1": {
        "float32": {**TOP1, "estimate": 81.0},
        "int8 add-mul": TOP1,
        "int8 op": {**TOP1, "estimate": 79.0},
    }
}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (("large", {}, 1.0, 224, "float32"), Published(75.2, 66)),
        (("large", {}, 0.85, 224, "float32"), Published(74.3, 55)),
        (("large", {"nonlinearity": "relu"}, 1.0, 224, "float32"), Published(74.5, 59)),
        (("large", {"nonlinearity": "hswish@16"}, 1.0, 224, "float32"), Published(75.4, 78)),
        (("small", {}, 1.0, 96, "float32"), Published(51.7, 5.8)),
        (("large", {}, 1.0, 224, "int8"), Published(73.8, 57)),
        (("large", {}, 0.75, 224, "int8"), None),
        (("small", {"nonlinearity": "relu"}, 1.0, 224, "float32"), None),
        (("large", {"nonlinearity": "relu"}, 1.0, 192, "float32"), None),
        (("large", {"stem_width": 32}, 1.0, 224, "float32"), None),
    ],
)
def test_published_figures(network: tuple[str, dict[str, Any], float, int, str], expected: object) -> None:
    assert published(*network) == expected


def test_the_table_has_a_row_for_every_file() -> None:
    headings, records = table_of(rows_of([cell("V3", {}, 217_000_000, latency=LATENCY, accuracy=ACCURACY)]))
    table = [dict(zip(headings, record, strict=True)) for record in records]
    assert [row["file"] for row in table] == ["float32", "int8 add-mul", "int8 op"]
    assert table[1] == {
        "variant": "V3",
        "width": "1",
        "px": "224",
        "file": "int8 add-mul",
        "M MAdds": "217.0",
        "M params": "5.40",
        "KiB": "2",
        "pieces": "1",
        "LiteRT xnnpack ms (ratio)": "3.30 (1.10)",
        "LiteRT builtin ms (ratio)": "",
        "predicted Pixel 1 ms (median, worst error %)": "9.0 (2.8, 9.7) [1]",
        "paper Pixel 1 ms": "57",
        "top-1 %": "80.0 [78.0, 82.0]",
        "paper top-1 %": "73.8",
    }
    assert table[2]["LiteRT xnnpack ms (ratio)"] == "~8.80"
    assert table[0]["paper Pixel 1 ms"] == "66" and table[0]["top-1 %"].startswith("81.0")
    assert table[2]["top-1 %"].startswith("79.0")


def test_doubtful_predictions_are_marked_and_explained_once() -> None:
    rows = rows_of([cell("V3", {}, 217_000_000), cell("swish", {"nonlinearity": "swish"}, 217_000_000)])
    assert notes_of(rows) == ["few published", "20 Logistic"]
    headings, records = table_of(rows)
    predicted = [record[headings.index("predicted Pixel 1 ms (median, worst error %)")] for record in records]
    assert predicted[:3] == ["54.2 (2.8, 9.7)", "9.0 (2.8, 9.7) [1]", "9.5 (2.8, 9.7) [1] [2]"]
    lines = to_markdown(rows, {}, "a host", []).splitlines()
    assert lines[-2:] == ["- [1] few published", "- [2] 20 Logistic"]


def test_what_xnnpack_refuses_is_in_the_table_with_the_reason() -> None:
    refused = cell("V3", {}, 217_000_000)
    refused["size"]["files"][1] |= {"partitions": 0, "refused": "no such ratio"}
    reasons = [{"form": "int8 add-mul", "runtime": "LiteRT xnnpack", "reason": "no such ratio"}]
    refused["latency"] = {"latencies": LATENCY["latencies"][2:], "refusals": reasons}
    rows = rows_of([refused])
    headings, records = table_of(rows)
    row = dict(zip(headings, records[1], strict=True))
    assert row["pieces"] == row["LiteRT xnnpack ms (ratio)"] == "refused [2]"
    assert records[0][headings.index("pieces")] == "1"
    assert notes_of(rows)[1] == "no such ratio"


@pytest.mark.parametrize(
    ("more", "said", "unsaid"),
    [
        ({}, ["predicted, not measured"], ["measured on", "Ratios", "top-1 is"]),
        ({"latency": LATENCY}, ["Latency measured on a host"], ["top-1 is"]),
        ({"size": None, "accuracy": ACCURACY}, ["top-1 is"], ["measured on", "predicted", "Pieces"]),
    ],
)
def test_only_figures_that_are_there_are_explained(
    more: dict[str, Any], said: list[str], unsaid: list[str]
) -> None:
    text = to_markdown(rows_of([{**cell("V3", {}, 1_000_000), **more}]), {}, "a host", [])
    explained = text.partition("|")[0]
    assert all(words in explained for words in said)
    assert not any(words in explained for words in unsaid)


def test_errors_of_families_are_told_once_for_each_precision() -> None:
    text = to_markdown(rows_of([cell("a", {}, 10), cell("b", {}, 20)]), {}, "a host", [])
    line = "With whole families left out, float32: multipliers 4.9, 15.3; V2 2.8, 9.7."
    assert [said for said in text.splitlines() if "families" in said] == [line]


def test_columns_without_figures_are_left_out() -> None:
    headings, records = table_of(rows_of([cell("a", {"stem_width": 8}, 10)]))
    assert len(records) == 3
    assert not {"top-1 %", "paper Pixel 1 ms", "LiteRT xnnpack ms (ratio)"} & set(headings)
    assert table_of([]) == ([], [])


def test_a_cell_that_failed_has_no_row_but_a_line() -> None:
    failed = {key: value for key, value in cell("bad", {}, 1).items() if key != "size"}
    assert rows_of([failed]) == []
    text = to_markdown([], {"bad-1-224, size": "no memory"}, "host", [])
    assert "- bad-1-224, size: no memory" in text


def test_a_claim_stands_beside_what_was_counted() -> None:
    """Without the component 227 M multiply-adds, with it 217; the predictions are a quarter of that in ms."""
    without = cell("stem-32", {"stem_width": 32}, 227_000_000, claim="stem of 16 filters, not 32")
    (line,) = claims([cell("V3", {}, 217_000_000), without])
    assert claims([{**cell("V3", {}, 217_000_000), "size": None}, without]) == []
    assert line == (
        "stem-32: stem of 16 filters, not 32: -10.0 M MAdds, -2.5 ms (-4 %) predicted "
        "(median, worst error of a network: 2.8, 9.7 %); "
        "paper: -16 count filters, -3 ms latency, -10 millions MAdds"
    )


def test_a_claim_tells_what_was_measured() -> None:
    """2.0 / 2.5 of the time in float, 1.1 / 1.0 in int8; what is unsteady or missing says nothing."""
    latencies = [
        entry("float32", "LiteRT xnnpack", 9000.0, 2.5),
        entry("int8", "LiteRT xnnpack", 3000.0, 1.0),
        entry("int8", "LiteRT builtin", 9000.0, 1.2),
    ]
    top1 = {"float32": {**TOP1, "estimate": 80.5}, "int8": {**TOP1, "estimate": 78.0}}
    relu = cell("relu", {"nonlinearity": "relu"}, 217_000_000, claim="V3, against ReLU everywhere")
    relu["size"]["files"] = [file("float32", 54.25), file("int8", 8.0)]
    relu |= {"latency": {"latencies": latencies, "refusals": []}, "accuracy": {"top1": top1}}
    whole = cell("V3", {}, 217_000_000, latency=LATENCY, accuracy=ACCURACY)
    (line,) = claims([whole, relu])
    assert "; measured in LiteRT xnnpack -20 % float32, +10 % int8; " in line
    assert "; top-1 +0.5 points float32, +2.0 points int8; paper: " in line
    assert "builtin" not in line
    trained = ({**one, "size": None, "latency": None} for one in (whole, relu))
    assert ": top-1 +0.5 points float32, +2.0 points int8; paper: " in claims(list(trained))[0]
    relu["latency"]["latencies"][1]["verdict"] = "noisy: drift"
    assert "measured in LiteRT xnnpack -20 % float32; top-1" in claims([whole, relu])[0]


def test_the_curve_takes_the_fastest_int8_file() -> None:
    narrow = {"latencies": [entry("int8 op", "LiteRT xnnpack", 1500.0, 1.0)], "refusals": []}
    cells = [
        cell("V3", {}, 217_000_000, latency=LATENCY, accuracy=ACCURACY),
        cell("V3", {}, 69_000_000, 0.5, latency=narrow),
    ]
    rows = rows_of(cells)
    assert points(rows, runtime="LiteRT xnnpack", accuracy=False) == {"V3": [(1.5, 69.0), (3.3, 217.0)]}
    assert points(rows, runtime="LiteRT xnnpack", accuracy=True) == {"V3": [(3.3, 80.0)]}
    assert points(rows, runtime=None, accuracy=False) == {"V3": [(9.0, 69.0), (9.0, 217.0)]}


def test_a_network_may_be_on_several_curves() -> None:
    both = {**cell("V3", {}, 217_000_000), "curves": ["widths", "resolutions"]}
    narrow = {**cell("V3", {}, 69_000_000, 0.5), "curves": ["widths"]}
    assert points(rows_of([both, narrow]), runtime=None, accuracy=False) == {
        "widths": [(9.0, 69.0), (9.0, 217.0)],
        "resolutions": [(9.0, 217.0)],
    }


def test_the_plot_names_curves_and_says_what_is_predicted(tmp_path: Path) -> None:
    cells = [cell("V3", {}, 217_000_000), cell("relu", {"nonlinearity": "relu"}, 210_000_000)]
    paths = tmp_path / "a.svg", tmp_path / "b.svg"
    assert all(write_plot(rows_of(cells), path) for path in paths)
    texts = [element.text for element in ET.parse(paths[0]).iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("V3") == texts.count("relu") == 2
    assert "predicted Pixel 1 ms (not measured; error: median 2.8 %, worst 9.7 %)" in texts
    assert paths[0].read_bytes() == paths[1].read_bytes()
