"""`qmnv3 sensitivity` and int16 in `qmnv3 ptq`, by the real command."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_command import Cli, assert_refused, untouched

from calibration.logit_errors import Interval
from calibration.sensitivity import Sensitivity
from qmnv3.cli.sensitivity_plot import NAMES, WIDTH, plot
from qmnv3.lowering import int16_tensors
from qmnv3.runs import load_report, load_run_graph

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def given(photos: Path, weights: Path) -> tuple[object, ...]:
    return ("--model", "user_nets:tiny", "--weights", weights, "--calib", photos)


def test_files_and_table(cli: Cli, given: tuple[object, ...], tmp_path: Path) -> None:
    done = cli("sensitivity", *given, "--out", tmp_path / "s", "--images", 6, "--top", 3)
    assert done.code == 0, done.stderr
    assert "rounded alone, against the unrounded network: 3 of " in done.stdout
    assert "forward passes for" in done.stdout and "against the float network: all rounded KL" in done.stdout
    found = json.loads((tmp_path / "s" / "sensitivity.json").read_text())
    assert found["recipe"]["level"] == 2 and found["images"] == 6
    names = {row["site"] for row in found["rows"]}
    assert {"image", "expand.0", "expand.2"} <= names
    assert {(row["kind"], row["mode"]) for row in found["rows"]} == {
        (kind, mode) for kind in ("activation", "weight") for mode in ("one", "all_but_one")
    }
    texts = {t.text for t in ElementTree.parse(tmp_path / "s" / "sensitivity.svg").iter(f"{SVG}text")}
    assert names <= texts


def test_what_is_wrong_with_the_images_is_said(
    cli: Cli, given: tuple[object, ...], photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    next(path for path in sorted(folder.rglob("*")) if path.is_file()).write_bytes(b"no image")
    given = (*given[:-1], folder)
    done = cli("sensitivity", *given, "--out", tmp_path / "s", "--mode", "one", "--skip-bad")
    assert done.code == 0, done.stderr
    assert "warning: 1 image could not be read, left out" in done.stderr
    found = json.loads((tmp_path / "s" / "sensitivity.json").read_text())
    assert len(found["skipped_images"]) == 1
    assert found["warnings"][1].startswith("calibration images: no more than ")


def test_one_mode_alone(cli: Cli, given: tuple[object, ...], tmp_path: Path) -> None:
    assert cli("sensitivity", *given, "--out", tmp_path / "s", "--images", 4, "--mode", "one").code == 0
    rows = json.loads((tmp_path / "s" / "sensitivity.json").read_text())["rows"]
    assert {row["mode"] for row in rows} == {"one"}


def test_a_file_in_the_way(cli: Cli, given: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with untouched(tmp_path):
        done = cli("sensitivity", *given, "--out", tmp_path / "s")
    assert_refused(done, f"{tmp_path}/s: exists and is not a folder; choose another --out")


def row(site: str, low: float, estimate: float, high: float) -> Sensitivity:
    sure = Interval(1.0, 0.5, 1.0)
    return Sensitivity(
        site, "activation", "one", 9, None, estimate, sure, Interval(estimate, low, high), estimate
    )


def test_places_in_the_plot() -> None:
    """Decades are evenly spaced; what is not above 0 lies on the axis' left end; names are escaped."""
    rows = [row("a<b", 0.01, 0.1, 1.0), row("c", 0.001, 0.01, 0.1), row("d", -1.0, -0.5, 0.01)]
    root = ElementTree.fromstring(plot(rows))
    dots = [c for c in root.iter(f"{SVG}circle") if c.get("fill") == "#2f81f7"][1:]
    places = [float(dot.get("cx", 0)) for dot in dots]
    assert places == pytest.approx([NAMES + WIDTH / 2, NAMES, NAMES], abs=0.1)
    assert "a<b" in {t.text for t in root.iter(f"{SVG}text")}


def test_ptq_tells_what_int16_gains_and_costs(cli: Cli, given: tuple[object, ...], tmp_path: Path) -> None:
    done = cli("ptq", *given, "--out", tmp_path / "RUN", "--images", 4, "--int16", "expand.0,expand.2")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("int16: expand.0, expand.2; KL 0.0") for line in lines), lines
    assert any(line.startswith("int16 tensors: ") and "XNNPACK partitions: 2" in line for line in lines)
    assert {"expand.0", "expand.2"} <= set(int16_tensors(load_run_graph(tmp_path / "RUN")))
    report = load_report(tmp_path / "RUN", "calibration.json")
    assert [site["site"] for site in report["int16"]["sites"]] == ["expand.0", "expand.2"]
    refused = cli("export", "--int8", "--checkpoint", tmp_path / "RUN", "--out", tmp_path / "o")
    assert_refused(refused, "is int16", "ONNX Runtime")


def test_int16_by_a_recipe(cli: Cli, given: tuple[object, ...], tmp_path: Path) -> None:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text("level: 1\nint16: {count: 2, min_gain: 0, max_slowdown: 1000}\n")
    done = cli("ptq", *given, "--out", tmp_path / "RUN", "--images", 6, "--recipe", recipe)
    assert done.code == 0, done.stderr
    assert 1 <= len(int16_tensors(load_run_graph(tmp_path / "RUN"))) <= 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("expand.9", "int16: 'expand.9' is no tensor of this network; did you mean 'expand."),
        ("image", "int16: image is the network's input, which is int8; leave it int8"),
    ],
)
def test_int16_refused(cli: Cli, given: tuple[object, ...], tmp_path: Path, name: str, text: str) -> None:
    with untouched(tmp_path):
        done = cli("ptq", *given, "--out", tmp_path / "RUN", "--images", 2, "--int16", name)
    assert_refused(done, text)
