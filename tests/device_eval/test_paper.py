"""Every typed figure of the paper against the paper's text, which lies beside the data of QMNV3_DATA."""

import re
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import pytest

from device_eval.paper.released import RELEASED
from device_eval.paper.statements import STATEMENTS, Statement
from device_eval.paper.table3 import TABLE3
from device_eval.paper.table4 import TABLE4
from device_eval.paper.table5 import TABLE5
from device_eval.paper.table6 import TABLE6
from device_eval.paper.table7 import TABLE7
from device_eval.paper.table8 import TABLE8
from device_eval.paper.table9 import TABLE9

Row = list[str | float | None]


@pytest.fixture(scope="module")
def paper(data_pack: Path) -> str:
    path = data_pack.parent / "paper" / "mobilenetv3.md"
    if not path.is_file():
        pytest.skip(f"no text of the paper at {path}")
    return path.read_text(encoding="utf-8")


def printed(paper: str, number: int) -> list[list[str]]:
    """Cells of the last block of tab-separated lines before the caption of a table, without its headings."""
    before = paper[: paper.index(f"\nTable {number}.")]
    blocks = re.findall(r"(?:^.*\t.*\n)+", before, re.MULTILINE)
    rows = [line.split("\t") for line in blocks[-1].splitlines()]
    return [[re.sub(r"\s*\[\d+\]", "", cell).strip() for cell in row] for row in rows if not is_heading(row)]


def is_heading(row: list[str]) -> bool:
    return not any(re.fullmatch(r"\d+\.\d+", cell.strip().split(" ")[0]) for cell in row[1:])


def number(cell: str) -> float | None:
    """The figure of a cell such as "5.4M", "66" or "-"; seconds and milliseconds in milliseconds."""
    if cell == "-":
        return None
    found = re.match(r"([+-]?[\d.]+) *(ms|s|M|B|%)?$", cell)
    assert found, cell
    return float(found[1]) * (1000 if found[2] == "s" else 1)


def numbers(row: tuple[object, ...], first: int) -> Row:
    """Figures from position `first` on; text is what the paper prints, without its unit."""
    return [float(value) if isinstance(value, str) else value for value in row[first:]]  # type: ignore[misc]


def test_tables_3_and_4(paper: str) -> None:
    for table, rows, first in ((3, TABLE3, 3), (4, TABLE4, 3)):
        ours = [[row.network, *numbers(astuple(row), first)] for row in rows]
        theirs = [[cells[0], *map(number, cells[1:])] for cells in printed(paper, table)]
        assert ours == theirs, table


def test_digits_are_kept_where_they_are_text(paper: str) -> None:
    digits3 = [(row.madds_millions, row.params_millions) for row in TABLE3]
    assert digits3 == [(c[2], c[3].rstrip("M")) for c in printed(paper, 3)]
    digits9 = [(row.madds_millions, row.params_millions) for row in TABLE9]
    assert digits9 == [(c[2], c[3]) for c in printed(paper, 9)]
    digits6 = [(row.params_millions, row.madds_billions) for row in TABLE6]
    assert digits6 == [(c[3], c[4]) for c in printed(paper, 6)]
    digits7 = [(row.params_millions, row.madds_billions) for row in TABLE7]
    assert digits7 == [(c[6].rstrip("M"), c[7].rstrip("B")) for c in printed(paper, 7)]


def test_table_5(paper: str) -> None:
    theirs = printed(paper, 5)
    assert [row.variant for row in TABLE5] == [cells[0].replace(" $@112$", "@112") for cells in theirs]
    for row, (_, top1, latency) in zip(TABLE5, theirs, strict=True):
        assert row.top1_percent == float(top1.split(" ")[0])
        assert row.pixel1_ms == float(latency.split(" ")[0])
        # The text lost sign and point of two of them: "(7%)" is -.7 %.
        for change, cell, scale in (
            (row.top1_change_points, top1, 10),
            (row.pixel1_change_percent, latency, 1),
        ):
            digits = re.search(r"\((?:.*?)(\d+)(?:.*?)\)", cell)
            assert (change is None) == (digits is None), cell
            if change is not None and digits is not None:
                assert round(abs(change) * scale) == int(digits[1])
                assert "+" not in cell or change > 0
                assert "(-" not in cell or change < 0
    reference = TABLE5[0]
    for row in TABLE5[2:]:
        assert row.pixel1_change_percent is not None and row.top1_change_points is not None
        change = 100 * (row.pixel1_ms / reference.pixel1_ms - 1)
        assert change == pytest.approx(row.pixel1_change_percent, abs=2)
        assert row.top1_percent - reference.top1_percent == pytest.approx(row.top1_change_points, abs=0.11)


def test_table_6(paper: str) -> None:
    theirs = printed(paper, 6)
    assert [row.halved for row in TABLE6] == ["dagger" in cells[0] or "†" in cells[0] for cells in theirs]
    names = [re.sub(r"<sup>†</sup>|\^\{\\dagger\}|\$", "", cells[0]) for cells in theirs]
    names = [name.replace(" -", "-").strip() for name in names]
    assert [row.backbone for row in TABLE6] == names
    ours = [numbers(astuple(row), 2) for row in TABLE6]
    assert ours == [list(map(number, cells[1:])) for cells in theirs]


def test_table_7(paper: str) -> None:
    for row, cells in zip(TABLE7, printed(paper, 7), strict=True):
        assert (row.number, row.backbone) == (int(cells[0]), cells[1])
        assert row.halved == (cells[2] != "-")
        assert (row.head == "R-ASPP") == ("×" in cells[3])
        assert numbers(astuple(row), 4) == [number(cell) for cell in cells[4:]]


def test_table_8(paper: str) -> None:
    theirs = printed(paper, 8)
    assert [row.estimated for row in TABLE8] == ["†" in cells[0] for cells in theirs]
    ours = [[row.network, row.output_stride, *numbers(astuple(row), 2)[:-1]] for row in TABLE8]
    assert ours == [[cells[0].rstrip("† "), *map(number, cells[1:])] for cells in theirs]
    full = [row.madds_full_billions for row in TABLE8]
    assert full == [None if c[3] == "-" else c[3].rstrip("B") for c in theirs]
    assert [row.madds_half_billions for row in TABLE8] == [c[4].rstrip("B") for c in theirs]


def test_table_9(paper: str) -> None:
    ours = [[f"{r.model} {r.resolution}/{r.width}", *numbers(astuple(r), 3)] for r in TABLE9]
    assert ours == [[cells[0], *map(number, cells[1:])] for cells in printed(paper, 9)]


def test_statements_stand_in_the_paper(paper: str) -> None:
    text = " ".join(paper.split())
    for statement in STATEMENTS:
        assert statement.words in text, statement
        if statement.change and statement.unit != "count":
            assert figure(statement) in figures(statement.words), statement


def figure(statement: Statement) -> str:
    """The figure as the paper prints it: a factor below 1 upside down."""
    return f"{1 / statement.change if statement.unit == 'times' else abs(statement.change):.4g}"


def figures(words: str) -> list[str]:
    found = re.findall(r"\d+(?:\.\d+)?", words)
    return [*found, "2"] if "halves" in words else found


def test_no_stated_change_is_left_out(paper: str) -> None:
    """Every percentage, "times faster", "mAP higher" and "factor of" in text and captions, counted."""
    body = paper[: paper.index("# References")]
    body = " ".join(line for line in body.splitlines() if "\t" not in line)
    stated = Counter(marked(body))
    assert stated["25"] == 2 and stated["2.24"] == 1, "found by looking"
    # Some sentences give several figures, each a statement of its own.
    sentences = {statement.words for statement in STATEMENTS}
    assert stated == Counter(value for words in sentences for value in marked(words))
    for words in sentences:
        ours = {figure(statement) for statement in STATEMENTS if statement.words == words}
        assert set(marked(words)) <= ours, words


def marked(text: str) -> list[str]:
    """Figures that are changes by what stands behind or before them."""
    found = re.findall(r"([\d.]+)%", text)
    for listed in re.findall(r"([\d., and]+) (?:times faster|mAP higher)", text):
        found += re.findall(r"\d+(?:\.\d+)?", listed)
    return found + re.findall(r"factor of \**(\d)", text)


def test_statements_agree_with_the_tables() -> None:
    """Worked by hand: 78 / 66 is "nearly 20 %", 66 / 59 "about 12 %", 66 / 78 "15 % less"."""
    by_thing = {(s.thing, s.quantity, s.unit): s.change for s in STATEMENTS}
    v3, _, relu, everywhere, _ = TABLE5
    assert by_thing["h-swish everywhere, against V3", "latency", "%"] == pytest.approx(
        100 * (everywhere.pixel1_ms / v3.pixel1_ms - 1), abs=2
    )
    assert by_thing["V3, against ReLU everywhere", "latency", "%"] == pytest.approx(
        100 * (v3.pixel1_ms / relu.pixel1_ms - 1), abs=0.2
    )
    large, v2 = TABLE3[0], TABLE3[4]
    assert by_thing["V3-Large against V2", "latency", "%"] == pytest.approx(
        100 * (large.pixel1_ms / v2.pixel1_ms - 1), abs=0.5
    )
    # "Nearly 3 %": Small takes 21.3 ms, Large of width 0.35 20.4.
    top1 = {(row.model, row.width): row.top1_percent for row in TABLE9 if row.resolution == 224}
    assert by_thing["V3-Small against V3-Large of a multiplier that matches it", "top-1", "points"] == (
        pytest.approx(top1["small", 1.0] - top1["large", 0.35], abs=0.5)
    )


def test_statements_about_detection_agree_with_table_6() -> None:
    by_thing = {(s.thing, s.quantity, s.unit): s.change for s in STATEMENTS}
    rows = {(row.backbone, row.halved): row for row in TABLE6}
    large, small, v2 = rows["V3", True], rows["V3-Small", True], rows["V2", False]
    faster = 100 * (large.latency_ms / v2.latency_ms - 1)
    assert by_thing["detection, V3-Large against V2", "latency", "%"] == pytest.approx(faster)
    assert by_thing["detection, V3-Large with half the channels against V2", "latency", "%"] == (
        pytest.approx(faster)
    )
    for other, name in (("V2 0.35", "V2"), ("Mnasnet 0.35", "MnasNet")):
        thing = f"detection, V3-Small with half the channels against {name}"
        assert by_thing[thing, "mAP", "points"] == pytest.approx(
            small.map_percent - rows[other, False].map_percent
        )
    half = by_thing["detection, half the channels between C4 and C5", "latency", "%"]
    for name in ("V3", "V3-Small"):
        change = 100 * (rows[name, True].latency_ms / rows[name, False].latency_ms - 1)
        assert half == pytest.approx(change, abs=2), name


def test_statements_about_segmentation_agree_with_tables_7_and_8() -> None:
    by_thing = {(s.thing, s.quantity, s.unit): s.change for s in STATEMENTS}
    v2, v3 = TABLE7[0], TABLE7[7]
    assert by_thing["segmentation, V3-Large LR-ASPP against V2 R-ASPP", "latency", "%"] == pytest.approx(
        100 * (v3.pixel3_full_ms / v2.pixel3_full_ms - 1), abs=2
    )
    rows = {(row.network, row.output_stride): row for row in TABLE8}
    best, fast, small = rows["V3", 16], rows["V3", 32], rows["V3-Small", 32]
    for name in ("ESPNetv2", "CCC2", "ESPNetv1"):
        other = rows[name, None]
        better = by_thing[f"segmentation, V3 against {name}", "mIOU", "points"]
        assert better == pytest.approx(best.miou_percent - other.miou_percent), name
        times = by_thing[f"segmentation, V3 without atrous convolution against {name}", "MAdds", "times"]
        madds = float(fast.madds_half_billions) / float(other.madds_half_billions)
        assert times == pytest.approx(madds, rel=0.005), name
        assert small.miou_percent - other.miou_percent >= 6.2 - 1e-9
    assert by_thing["segmentation, no atrous convolution", "mIOU", "points"] == pytest.approx(
        fast.miou_percent - best.miou_percent
    )
    assert by_thing["segmentation, V3-Small against all of them", "mIOU", "points"] == pytest.approx(
        small.miou_percent - rows["ESPNetv2", None].miou_percent
    )
    thing = "segmentation, fastest V3-Small against ESPNetv2-small"
    assert by_thing[thing, "mIOU", "points"] == pytest.approx(
        small.miou_percent - rows["ESPNetv2 small", None].miou_percent
    )


def test_what_google_released_is_not_the_papers() -> None:
    """As its README has them, top-1 and Pixel 1, 2, 3; later software than the paper's."""
    figures = {
        (row.model, row.precision): (row.top1_percent, row.pixel1_ms, row.pixel2_ms, row.pixel3_ms)
        for row in RELEASED
    }
    assert figures == {
        ("large", "float32"): (75.2, 51.2, 61, 44),
        ("large", "int8"): (73.9, 44, 42.5, 32),
        ("small", "float32"): (67.5, 15.8, 19.4, 14.4),
        ("small", "int8"): (64.9, 15.5, 15, 10.7),
    }
    paper3 = {row.model: row for row in TABLE3 if row.width == 1.0 and row.model}
    for row in RELEASED:
        if row.precision == "float32":
            assert row.pixel1_ms < 0.8 * paper3[row.model].pixel1_ms
