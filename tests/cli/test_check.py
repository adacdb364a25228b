"""`qmnv3 check` as a user types it, on a network of two classes and six photos."""

import json
from pathlib import Path

import pytest
from cli_command import assert_refused
from conftest import Cli


def test_a_run_needs_nothing_more(cli: Cli, run: Path, photos: Path, tmp_path: Path) -> None:
    found = tmp_path / "check.json"
    asked = ("--against", "table4", "--network", "small", "--data", photos, "--device", "none")
    done = cli("check", run, *asked, "--json", found)
    assert done.code in (0, 1), done.stderr
    assert "beside small of the paper" in done.stdout and "top-1 on 6 images" in done.stdout
    value = json.loads(found.read_text())
    assert value["network"] == "small" and [row["samples"] for row in value["rows"]] == [6, 6]
    paper = value["rows"][0]
    assert paper["published"] == pytest.approx(64.9 - 67.4)
    verdict = paper["judgement"]["verdict"]
    assert verdict in done.stdout
    assert done.code == (verdict == "worse" or value["rows"][1]["judgement"]["verdict"] == "worse")


def test_latency_alone_against_a_given_parent(cli: Cli, run: Path, exported: Path, tmp_path: Path) -> None:
    assert cli("export", "--float32", "--checkpoint", run, "--out", tmp_path, "--format", "tflite").code == 0
    files = (exported / "model_int8.tflite", "--float", tmp_path / "model_float32.tflite")
    done = cli("check", *files, "--network", "large", "--runs", 12, "--json", tmp_path / "check.json")
    assert done.code in (0, 1), done.stderr
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert [round(row["published"], 3) for row in rows] == [0.864, 0.726, 0.74, 0.859, 0.697, 0.727]
    assert all(row["low"] <= row["estimate"] <= row["high"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--network", "small", "--device", "none"), "nothing to check; give --data, or a --device"),
        (("--data", "PHOTOS", "--device", "none"), "is no row of Table 4; give --network large, small"),
        (("--float", "FLOAT", "--data", "PHOTOS"), "a RUN holds its float parent; leave out --float"),
        (("--network", "small", "--device", "toaster"), "--device toaster: unknown"),
        (("--data", "PHOTOS", "--network", "small", "--mean", 1, 1, 1), "carries its own preprocessing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_checked(
    cli: Cli,
    run: Path,
    exported: Path,
    photos: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    text: str,
) -> None:
    known = {"PHOTOS": photos, "FLOAT": exported / "model_int8.tflite"}
    out = tmp_path / "check.json"
    done = cli("check", run, *(known.get(str(part), part) for part in arguments), "--json", out)
    assert_refused(done, text)
    assert not out.exists()


def test_a_file_without_parent_is_refused(cli: Cli, exported: Path, photos: Path) -> None:
    done = cli("check", exported / "model_int8.tflite", "--network", "small", "--data", photos)
    assert_refused(done, "has no float parent to compare with; give --float FILE")
