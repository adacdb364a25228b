"""`qmnv3 report`: what goes in, what comes out, and what is refused."""

import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import result_files as files
from cli_command import Cli, assert_refused, untouched

HOSTILE = "\"'><script>hacked=1</script><img src=x onerror=hacked=1>|`*_&amp;\u202e\ud800"
ALL = {
    "eval": files.evaluation(-0.01, -0.02, 0.0),
    "bench": files.benchmark(
        files.latency("float.tflite", "xnnpack", [1900, 2000, 2100]),
        files.latency("int8.tflite", "xnnpack", [900, 1000, 1100]),
        models=[files.structure("int8.tflite")],
    ),
    "sensitivity": files.sensitivity(),
    "predict": files.prediction(),
    "lint": files.lint(),
    "check": files.check(),
    "ablate": files.ablation(),
}


class Page(HTMLParser):
    """Elements of a page by name, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "results with spaces"
    folder.mkdir()
    return [files.write(folder / f"{name} 1.json", value) for name, value in ALL.items()]


def test_everything_on_one_page(
    cli: Cli, tmp_path: Path, results: list[Path], run: Path, exported: Path
) -> None:
    out, md, as_json = (tmp_path / f"r.{suffix}" for suffix in ("html", "md", "json"))
    models = [exported / "model_int8.tflite", exported / "model_int8.onnx"]
    done = cli("report", run, *models, *results, "--out", out, "--md", md, "--json", as_json)
    assert done.code == 0 and done.stderr == "", done
    assert "good    speed of int8.tflite: 0.50 [0.43, 0.58] times float.tflite" in done.stdout
    assert "left out: Time per operation" in done.stdout

    value = json.loads(as_json.read_text())
    titles = [section["title"] for section in value["sections"]]
    assert titles == [
        "Accuracy",
        "Claims of the paper, checked",
        "Beside the paper",
        "Ablations",
        "Latency",
        "Predicted latency on Pixel phones",
        "Partitions",
        "h-swish sites",
        "Tensors",
        "Sensitivity",
        "Lint",
        "Provenance",
    ]
    (ablated,) = value["sections"][titles.index("Ablations")]["tables"]
    assert ablated["title"] == "placement"
    assert ablated["rows"][1] | {"predicted_pixel1_ms": None} == {
        "variant": "V3-hswish@80",
        "width": 1.0,
        "resolution": 224,
        "form": "int8 add-mul",
        "top1_percent": {"value": 56.1, "low": 54.5, "high": 57.6},
        "int8_minus_float_points": {"value": 0.1, "low": -0.4, "high": 0.5},
        "mmadds": 217.0,
        "mb": 5.0,
        "predicted_pixel1_ms": None,
        "LiteRT xnnpack_ms": 3.6,
        "LiteRT xnnpack_ratio": 1.0,
        "samples": "steady",
    }
    page, text = Page(out.read_text()), md.read_text()
    for title in titles:
        assert title in page.text and f"## {title}\n" in text
    # All of the RUN's tensors, in every form.
    sites = [row["site"] for row in json.loads((run / "calibration.json").read_text())["layers"]]
    tensors = value["sections"][titles.index("Tensors")]
    assert [row["tensor"] for row in tensors["tables"][0]["rows"]] == sites
    assert all(f"| {site} |".replace("_", r"\_") in text for site in sites)
    assert "results with spaces/eval 1.json" in page.text


def test_page_needs_nothing_else(cli: Cli, tmp_path: Path, results: list[Path]) -> None:
    assert cli("report", *results, "--out", tmp_path / "r.html").code == 0
    page = Page((tmp_path / "r.html").read_text())
    loading = [value for name, value in page.attributes if name in ("src", "href", "data", "action")]
    assert all(value.startswith(("#", "data:")) for value in loading)
    assert page.elements["svg"] == 5 and page.elements["script"] == 1 and page.elements["link"] == 1
    assert "url(" not in page.text and "@import" not in page.text


def test_same_inputs_same_bytes(cli: Cli, tmp_path: Path, results: list[Path], run: Path) -> None:
    for name in ("a", "b"):
        given = ("--md", tmp_path / f"{name}.md", "--json", tmp_path / f"{name}.json")
        assert cli("report", run, *results, "--out", tmp_path / f"{name}.html", *given).code == 0
    for suffix in ("html", "md", "json"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def hostile(value: Any) -> Any:
    """Every text that a file may choose freely."""
    free = {"path", "runtime", "data", "site", "model", "where", "what", "fix", "rule", "name", "git_commit"}
    free |= {"verdict", "reason", "effect", "cpu", "platform", "created", "device", "kind_"}
    free |= {"quantity", "source", "network", "variant", "form"}
    if value == files.check()["rows"][0]["judgement"]:
        return value  # one of four
    if isinstance(value, dict):
        return {k: HOSTILE if k in free and isinstance(v, str) else hostile(v) for k, v in value.items()}
    return [hostile(item) for item in value] if isinstance(value, list | tuple) else value


def test_text_from_files_stays_text(cli: Cli, tmp_path: Path, exported: Path) -> None:
    given = [files.write(tmp_path / f"{name}.json", hostile(value)) for name, value in ALL.items()]
    model = tmp_path / "<script>hacked=1<!-- & 'x'.tflite"
    shutil.copy(exported / "model_int8.tflite", model)
    out, md = tmp_path / "r.html", tmp_path / "r.md"
    done = cli("report", *given, model, "--out", out, "--md", md, "--title", HOSTILE[:40])
    assert done.code == 0, done
    page = Page(out.read_text())
    assert page.elements["script"] == 1 and page.elements["img"] == 0
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "<script>hacked=1</script><img src=x onerror=hacked=1>|`*_&amp;" in page.text
    assert "<script" not in md.read_text().replace(r"\<script", "")
    # A bar in a name opens no cell of its own.
    rows = [line for line in md.read_text().splitlines() if line.startswith("| ") and "hacked" in line]
    assert rows and all(r"|`" not in line for line in rows)


def damaged(name: str, **other: Any) -> dict[str, Any]:
    return {**ALL[name], **other}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], 'JSON without "command"; give what `--json` of these wrote: eval, '),
        ({"command": "inspect"}, "JSON of \"command\" 'inspect'"),
        ({"command": ["eval"]}, "JSON of \"command\" ['eval']"),
        (damaged("eval", images="many"), "images: Input should be a valid integer"),
        (damaged("eval", models=[]), "models: Tuple should have at least 1 item"),
        (damaged("bench", latencies=[]), "latencies: Tuple should have at least 1 item"),
        (damaged("bench", environment=None), "environment: Input should be"),
        (damaged("sensitivity", kl={"estimate": float("nan"), "low": 0, "high": 0}), "kl.estimate: Input"),
        (damaged("sensitivity", kl={"estimate": 1e300, "low": 0, "high": 0}), "kl.estimate: Input"),
        ({"command": "predict"}, "models: Field required; run `qmnv3 predict` again"),
    ],
)
def test_wrong_json(cli: Cli, tmp_path: Path, value: Any, text: str) -> None:
    path = files.write(tmp_path / "x.json", value)
    with untouched(tmp_path):
        assert_refused(cli("report", path, "--out", tmp_path / "r.html"), f"{path}: ", text)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_what_is_not_json(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with untouched(tmp_path):
        assert_refused(cli("report", path, "--out", tmp_path / "r.html"), f"{path}: ", "JSON")


def test_wrong_paths(cli: Cli, tmp_path: Path, results: list[Path], run: Path) -> None:
    with untouched(tmp_path):
        out = ("--out", tmp_path / "r.html")
        assert_refused(cli("report", tmp_path / "gone.json", *out), "gone.json: No such file")
        assert_refused(cli("report", tmp_path, *out), "not a RUN folder")
        assert_refused(cli("report", results[0], "--out", results[0]), f"{results[0]}: is given twice")
        assert_refused(cli("report", results[0], *out, "--md", tmp_path / "r.html"), "is given twice")
        assert_refused(cli("report", results[0], "--out", tmp_path), f"{tmp_path}: ")
        assert cli("report", *out).code == 2
    damaged_run = tmp_path / "RUN"
    shutil.copytree(run, damaged_run)
    (damaged_run / "calibration.json").write_text('{"images": 2}')
    assert_refused(cli("report", damaged_run, *out), "calibration.json: layers: Field required")


def test_sensitivity_json_is_known_by_its_command(
    cli: Cli, tmp_path: Path, weights: Path, photos: Path
) -> None:
    given = ("--model", "user_nets:tiny", "--weights", weights, "--calib", photos, "--images", 2)
    assert cli("sensitivity", *given, "--out", tmp_path / "s", "--mode", "one").code == 0
    done = cli("report", tmp_path / "s" / "sensitivity.json", "--out", tmp_path / "r.html")
    assert done.code == 0, done
    assert 'id="sensitivity"' in (tmp_path / "r.html").read_text()


def test_an_ablation_is_understood(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "one.yaml"
    sizes = [{"widths": [1.0], "resolutions": [224]}]
    variants = [{"name": "swish@1", "model": "large", "options": {"nonlinearity": "swish"}}]
    recipe.write_text(json.dumps({"variants": variants, "sizes": sizes}))
    given = (recipe, "--out", tmp_path / "OUT", "--runs", 1, "--warmup", 0)
    assert cli("ablate", *given).code == 0
    out = tmp_path / "r.json"
    done = cli("report", tmp_path / "OUT" / "ablation.json", "--out", tmp_path / "r.html", "--json", out)
    assert done.code == 0, done
    value = json.loads(out.read_text())
    paper = next(section for section in value["sections"] if section["id"] == "paper")
    ours = [row for row in paper["tables"][1]["rows"] if row["network"] == "swish@1"]
    assert sum(row["source"].startswith("predicted, ") for row in ours) == 2
    assert any(row["source"].startswith("measured, int8 lut, LiteRT xnnpack on ") for row in ours)
    assert "variants:" in value["recipes"][0]["yaml"]


def test_other_commands_json_is_understood(
    cli: Cli, tmp_path: Path, run: Path, exported: Path, photos: Path
) -> None:
    """Nothing by hand: what eval, bench, predict, lint and check really write."""
    given = {
        "eval": (exported / "model_int8.tflite", "--against", run, "--data", photos),
        "bench": (exported / "model_int8.onnx", "--profile", "--runs", 1, "--warmup", 0),
        "predict": (run,),
        "lint": (exported / "model_int8.tflite",),
        "check": (run, "--network", "small", "--data", photos, "--runs", 2),
    }
    for name, arguments in given.items():
        # check: 1 where something is worse than the paper, as any two-class network may be.
        assert cli(name, *arguments, "--json", tmp_path / f"{name}.json").code in (0, name == "check")
    paths = [tmp_path / f"{name}.json" for name in given]
    out = tmp_path / "r.json"
    done = cli("report", *paths, exported / "model_int8.onnx", "--out", tmp_path / "r.html", "--json", out)
    assert done.code == 0, done
    value = json.loads((tmp_path / "check.json").read_text())
    assert value["accuracy"]["images"] == 6 and len(value["latency"]["int8"]["latency_us"]) == 2
    sections = {section["id"]: section for section in json.loads(out.read_text())["sections"]}
    assert {"accuracy", "checks", "latency", "operations", "predicted", "partitions", "lint"} <= set(sections)
    # Every convolution of the file is found in the profile, whatever ONNX Runtime calls it.
    each = next(t for t in sections["operations"]["tables"] if t["title"].endswith("each"))["rows"]
    convolutions = [row for row in each if row["kind"] == "QLinearConv"]
    assert convolutions and all(row["mmacs"] for row in convolutions)
