"""`qmnv3 check` as a user types it, on a network of two classes and six photos."""

import json
from pathlib import Path

import pytest
from cli_command import Cli, assert_refused, run_main


def test_a_run_needs_nothing_more(cli: Cli, run: Path, photos: Path, tmp_path: Path) -> None:
    found = tmp_path / "check.json"
    asked = ("--against", "table4", "--network", "small", "--data", photos, "--device", "none")
    done = cli("check", run, *asked, "--json", found)
    assert done.code in (0, 1), done.stderr
    assert "beside small of the paper, which it is not" in done.stdout
    assert "top-1 on 6 images" in done.stdout
    value = json.loads(found.read_text())
    assert (value["network"], value["forced"]) == ("small", True) and value["notes"][0].startswith(
        f"--network small: {run} is not this published network; it has "
    )
    assert [row["samples"] for row in value["rows"]] == [6, 6]
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
        (("--data", "PHOTOS", "--device", "none"), "no published row is of this network"),
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


def quantized(photos: Path, out: Path, *network: object) -> Path:
    assert run_main("ptq", *network, "--calib", photos, "--out", out, "--images", 2, "--level", 0) == 0
    return out


@pytest.mark.parametrize(
    ("network", "row"),
    [
        (("--model", "small"), "small"),
        (("--model", "v2", "--width", 0.35), "v2-0.35"),
        (("--model", "small", "--width", 0.5, "--resolution", 64), None),
        (("--model", "small", "--resolution", 192), None),
        (("--model", "small_minimalistic"), None),
    ],
    ids=str,
)
def test_the_row_is_found_by_counting(
    cli: Cli, photos: Path, tmp_path: Path, network: tuple[object, ...], row: str | None
) -> None:
    run = quantized(photos, tmp_path / "RUN", *network)
    done = cli("check", run, "--runs", 2, "--json", tmp_path / "check.json")
    if row is None:
        assert_refused(done, f"{run}: no published row is of this network")
        return
    value = json.loads((tmp_path / "check.json").read_text())
    assert (value["network"], value["forced"]) == (row, False)
    # Two runs show no drift, and decide nothing.
    assert {row["judgement"]["verdict"] for row in value["rows"]} == {"not decidable"}
    assert "give --runs 10 or more" in done.stdout


def test_float_and_integers_cannot_be_mixed_up(
    cli: Cli, run: Path, exported: Path, photos: Path, tmp_path: Path
) -> None:
    assert cli("export", "--float32", "--checkpoint", run, "--out", tmp_path, "--format", "tflite").code == 0
    floating, integer = tmp_path / "model_float32.tflite", exported / "model_int8.tflite"
    assert_refused(
        cli("check", floating, "--float", floating), f"{floating}: is not quantized; give an 8-bit"
    )
    assert_refused(cli("check", integer, "--float", integer), f"{integer}: is quantized; --float takes the")
    other = quantized(photos, tmp_path / "RUN", "--model", "small", "--width", 0.35)
    assert cli("export", "--int8", "--checkpoint", other, "--out", tmp_path, "--format", "tflite").code == 0
    done = cli("check", tmp_path / "model_int8.tflite", "--float", floating)
    assert_refused(done, "give the float model it was made from")


def test_a_file_that_xnnpack_refuses(cli: Cli, photos: Path, tmp_path: Path, data_pack: Path) -> None:
    run = quantized(photos, tmp_path / "RUN", "--model", "small")
    assert cli("export", "--float32", "--checkpoint", run, "--out", tmp_path, "--format", "tflite").code == 0
    files = (data_pack / "peers" / "v3_small_ptq_int8.tflite", "--float", tmp_path / "model_float32.tflite")
    assert_refused(cli("check", *files, "--runs", 2), "xnnpack kernels refuse it")
    done = cli("check", *files, "--runs", 2, "--kernel", "builtin")
    assert done.code == 0, done.stderr
    assert "beside small of the paper" in done.stdout
