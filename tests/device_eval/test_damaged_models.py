"""Files that would end, block or flood the process that opens them: refused by one that does not."""

import faulthandler
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
import result_files as files
from ai_edge_litert import schema_py_generated as schema
from colour_models import colour_graph, write_colour_onnx
from onnx import TensorProto, helper

from device_eval import probe
from device_eval.latency.structure import structure
from device_eval.lint import lint
from device_eval.report import gather
from device_eval.runners import open_model
from qmnv3.errors import GraphError, ModelFileError, ProcessError, ReportError
from qmnv3.export.tflite import write_tflite
from qmnv3.runs import load_report, save_run

HERE = Path(__file__).parent
CASES = 24


def write_without_graph(path: Path) -> Path:
    """A valid flatbuffer and TFLite file of no subgraphs, which LiteRT takes for granted."""
    model = schema.ModelT(version=3, buffers=[schema.BufferT()])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


def write_endless(path: Path) -> Path:
    """A valid classifier that adds up a number for as long as it may."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes_on"]),
            helper.make_node("Add", ["sum", "sum"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 3]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1, 3]),
        ],
    )
    model = onnx.load(write_colour_onnx(path, 1))
    model.graph.output[0].name = "endless"
    model.graph.node.append(helper.make_node("Loop", ["rounds", "yes", "scaled"], ["endless"], body=body))
    model.graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def write_huge(path: Path) -> Path:
    """A valid classifier of images of 48 GB each."""
    model = onnx.load(write_colour_onnx(path, 1))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 65536
    onnx.save(model, path)
    return path


def test_a_file_that_litert_crashes_on(tmp_path: Path) -> None:
    path = write_without_graph(tmp_path / "m.tflite")
    with pytest.raises(
        ModelFileError, match=rf"^{path}: LiteRT with its builtin kernels crashes on it \(Segm"
    ):
        open_model(path, "builtin")
    for use in (lint, structure):
        with pytest.raises(
            ModelFileError, match=rf"^{path}: its reader crashes on it \(Segmentation fault\)"
        ):
            use(path)


def test_without_the_probe_it_would_end_the_process(tmp_path: Path) -> None:
    path = write_without_graph(tmp_path / "m.tflite")
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        probe.enter()
        open_model(path, "builtin")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


def test_good_files_are_opened_after_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        open_model(write_without_graph(tmp_path / "bad.tflite"))
    write_tflite(colour_graph(), tmp_path / "good.tflite")
    assert open_model(tmp_path / "good.tflite").num_outputs == 3


def test_a_file_repaired_in_place_is_tried_again(tmp_path: Path) -> None:
    path = write_without_graph(tmp_path / "m.tflite")
    with pytest.raises(ModelFileError):
        open_model(path)
    write_tflite(colour_graph(), path)
    assert open_model(path).num_outputs == 3


def test_the_helper_killed(tmp_path: Path) -> None:
    for name in ("first.tflite", "second.tflite", "third.tflite"):
        write_tflite(colour_graph(), tmp_path / name)
    open_model(tmp_path / "first.tflite")
    helper = probe._helper()
    helper.kill()
    helper.wait()
    with pytest.raises(ProcessError, match=r"second\.tflite: the process that tries model files has ended"):
        open_model(tmp_path / "second.tflite")
    assert open_model(tmp_path / "third.tflite").num_outputs == 3


def test_a_model_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_SECONDS", 2)
    with pytest.raises(ModelFileError, match=r"m\.onnx: ONNX Runtime is not done with it after 2 s"):
        open_model(write_endless(tmp_path / "m.onnx"))


def test_a_model_that_needs_too_much_memory(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"m\.onnx: needs more than 1024 MiB of memory"):
        open_model(write_huge(tmp_path / "m.onnx"))


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_what_is_no_file_of_a_models_size(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(2**31)
    for use in (open_model, lint, structure):
        with pytest.raises(ModelFileError, match=f"{name}: 2048 MiB, at most 512 MiB are read"):
            use(path)
    path.unlink()
    os.mkfifo(path)
    for use in (open_model, lint, structure):
        with pytest.raises(ModelFileError, match=f"{name}: neither a file nor a folder"):
            use(path)


@pytest.mark.parametrize("name", ["int8.json", "int8.safetensors", "run.json"])
@pytest.mark.parametrize("what", ["sparse", "deep"])
def test_a_run_whose_file_takes_no_end(tmp_path: Path, name: str, what: str) -> None:
    run = tmp_path / "RUN"
    save_run(run, colour_graph(), colour_graph(), {}, {})
    (run / name).write_text("[" * 100_000)
    if what == "sparse":
        os.truncate(run / name, 2**31)
    with pytest.raises(GraphError, match=f"{run}/.*2048 MiB" if what == "sparse" else f"{run}/"):
        load_report(run, name) if name == "run.json" else open_model(run)


def test_random_damage_never_ends_a_process(tmp_path: Path) -> None:
    """CASES variants each of three models and of every command's JSON, through all that reads them."""
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    write_colour_onnx(tmp_path / "m.onnx", softmax=True)
    save_run(tmp_path / "RUN", colour_graph(), colour_graph(), {"images": 2, "layers": []}, {})
    results = (
        files.evaluation(-0.01, -0.02, 0.0),
        files.benchmark(files.latency("a", "xnnpack", [1, 2, 3]), models=[files.structure("a")]),
        *(files.sensitivity(), files.prediction(), files.lint(), files.check(), files.ablation()),
    )
    written = [files.write(tmp_path / f"{value['command']}.json", value).name for value in results]
    names = ("m.tflite", "m.onnx", "RUN", *written)
    command = [sys.executable, str(HERE / "fuzz_models.py"), "--cases", str(CASES), *names]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    for name, found in json.loads(done.stdout).items():
        assert found["wrong"] == {}, name
        assert found["opened"] + found["refused"] == CASES and found["refused"] > 0, name


def test_a_scale_that_is_a_signalling_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(colour_graph(), path)
    scale = np.float32(2 / 255).tobytes()
    content = path.read_bytes()
    assert scale in content
    path.write_bytes(content.replace(scale, (0x7F800001).to_bytes(4, "little")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = lint(path)
    assert any("nan" in finding.what for finding in report.findings), report.findings


def test_a_result_that_takes_no_end(tmp_path: Path) -> None:
    path = files.write(tmp_path / "check.json", files.check())
    os.truncate(path, 2**31)
    with pytest.raises(ReportError, match=r"check\.json: 2048 MiB, at most 512 MiB are read"):
        gather([path])
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ReportError, match=r"check\.json: neither a file nor a folder"):
        gather([path])
