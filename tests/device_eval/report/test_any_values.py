"""One value of a result replaced by every other kind: the report refuses it, or shows it."""

import copy
import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import result_files as files

from device_eval.report import build, gather, to_markdown
from qmnv3.errors import ReportError

PROFILE = [{"kind": "Conv", "name": "conv", "mean_us": 5.0}]
PARTITIONS = {"count": 2, "delegated_ops": 3, "undelegated": [[1, "MUL"]], "refused": None}
RESULTS = (
    files.evaluation(-0.01, -0.02, 0.0),
    files.benchmark(
        files.latency("a", "xnnpack", [1, 2, 3], profile=PROFILE),
        files.latency("b", "xnnpack", [1, 2, 3]),
        models=[files.structure("a", partitions=PARTITIONS, float_ops={"Conv": 1})],
    ),
    files.sensitivity(),
    files.prediction(),
    files.lint(),
    files.check(needed=900),
    files.ablation(nonlinearity="relu"),
)
NO_XML = "\0\ud800"
OTHERS = (None, True, 0, -1, 10**400, 1e30, -1e30, 5e-324, float("nan"), float("inf"), "", NO_XML, [], {})


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Keys and indices that lead to every value within, the whole left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inside:
        yield (*at, key)
        yield from places(held, (*at, key))


def geometry(element: ET.Element) -> list[str]:
    """Numbers in attributes, corners of polygons included."""
    points = element.get("points", "").replace(",", " ").split()
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height")
    return [*points, *(element.attrib[name] for name in names if name in element.attrib)]


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result["command"])
def test_one_value_replaced(tmp_path: Path, result: dict[str, Any]) -> None:
    result = json.loads(json.dumps(result))
    shown = refused = 0
    for place in places(result):
        for other in OTHERS:
            changed = copy.deepcopy(result)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = other
            try:
                report = build(gather([files.write(tmp_path / "x.json", changed)]))
            except ReportError:
                refused += 1
                continue
            shown += 1
            to_markdown(report)
            json.dumps(report.to_json(), allow_nan=False)
            for section in report.sections:
                for figure in section.figures:
                    numbers = [
                        v
                        for e in ET.fromstring(figure.svg("id").replace(NO_XML, "")).iter()
                        for v in geometry(e)
                    ]
                    assert all(isfinite(float(number)) for number in numbers)
    assert shown and refused
