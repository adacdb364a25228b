"""Where figures put their data, from worked examples."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from device_eval.report.drawing import Scale, scale
from device_eval.report.figures import Bar, Bars, Point, Roofline, Row, Rows


def test_linear_scale() -> None:
    along = Scale(0, 10, 100, 200)
    assert [along(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert (along(-1), along(11)) == (100, 200)
    assert along.ticks() == [0, 2, 4, 6, 8, 10]


def test_log_scale() -> None:
    along = Scale(0.01, 100, 0, 400, "log")
    assert [along(v) for v in (0.01, 0.1, 1, 100)] == pytest.approx([0, 100, 200, 400])
    assert (along(0), along(-5)) == (0, 0)
    assert along.ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert Scale(2, 2.6, 0, 1, "log").ticks() == pytest.approx([2, 2.2, 2.4, 2.6])


def test_symlog_scale_is_odd() -> None:
    along = Scale(-100, 100, 0, 200, "symlog")
    assert along(0) == pytest.approx(100)
    assert along(10) - 100 == pytest.approx(100 - along(-10))
    assert along.ticks() == [-100, -10, -1, 0, 1, 10, 100]


@pytest.mark.parametrize("kind", ["linear", "log", "symlog"])
@pytest.mark.parametrize(
    "values", [[], [0.0], [3.0, 3.0], [1e30, -1e30], [5e-324, 0.0], [1e30, 1e-30], [-2.0, -1.0]]
)
def test_any_values_can_be_placed(kind: str, values: list[float]) -> None:
    along = scale(values, 0, 100, kind)  # type: ignore[arg-type]
    assert all(0 <= along(value) <= 100 for value in [*values, 1.0])
    assert len(along.ticks()) < 60


def marks(svg: str, name: str, cls: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(svg).iter(name) if cls in e.get("class", "").split()]


def test_rows_draw_every_sample_and_interval() -> None:
    rows = (Row("a", "one", 2.0, 1.0, 3.0, ring=2.5, samples=(1.0, 2.0, 4.0)), Row("b", "two", 3.0))
    svg = Rows("title", "description", "ms", rows).svg("id")
    assert len(marks(svg, "line", "sample")) == 3
    (interval,) = marks(svg, "line", "interval")
    (circle,) = marks(svg, "circle", "mark")[1:]  # the first is the legend's
    middle = (float(interval.get("x1", "")) + float(interval.get("x2", ""))) / 2
    assert float(circle.get("cx", "")) == pytest.approx(middle, abs=0.01)
    assert len(marks(svg, "circle", "ring")) == 1
    texts = [element.text for element in ET.fromstring(svg).iter("text")]
    assert {"a", "b", "ms", "one", "two"} <= set(texts)


def test_bars_are_as_high_as_their_values() -> None:
    svg = Bars("t", "d", "dB", (Bar("a", "", 0, 10), Bar("b", "", 0, 20, (5, 10)))).svg("id")
    first, second = (float(bar.get("height", "")) for bar in marks(svg, "rect", "bar"))
    assert second == pytest.approx(2 * first, rel=1e-3)
    assert len(marks(svg, "line", "inner")) == 1


def test_roofs_are_the_best_rates_reached() -> None:
    # 2 and 0.5 billion bytes per second, 8 billion multiply-adds at most.
    points = (Point("memory", "Mul", 1.0, 2.0, 40.0), Point("arithmetic", "Conv", 16.0, 8.0, 60.0))
    assert Roofline("t", "d", points).roofs() == (8.0, 2.0)
    assert len(marks(Roofline("t", "d", points).svg("id"), "polyline", "roof")) == 1


def test_names_are_escaped(tmp_path: Path) -> None:
    svg = Rows("<b>", '"&', "<i>", (Row("<script>x</script>", "<s>", 1.0),)).svg("id")
    assert "<script" not in svg and "<b>" not in svg and "<i>" not in svg
    assert "<script>x</script>" in [element.text for element in ET.fromstring(svg).iter("text")]
