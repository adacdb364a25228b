from pathlib import Path

import numpy as np
import onnx
import pytest
from colour_models import SIDE, SPEC, colour_graph, write_colour_onnx
from onnx import TensorProto, helper

from device_eval.preparation import Override, resolve_preprocessing
from device_eval.runners import open_model
from qmnv3.errors import ModelFileError, QmnError
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.runs import save_run

HALF_STEP = 1 / 128  # of the colour model's output grid, 1/64


def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (5, SIDE, SIDE, 3)).astype(np.float32)


def write(kind: str, folder: Path) -> Path:
    if kind == "run":
        graph = colour_graph(("r", "g", "b"))
        save_run(folder / "RUN", graph, graph, {}, {})
        return folder / "RUN"
    path = folder / f"model.{kind}"
    writer = {"tflite": write_tflite, "onnx": write_onnx}[kind]
    writer(colour_graph(("r", "g", "b")), path)
    return path


@pytest.mark.parametrize(
    ("kind", "kernel"), [("run", None), ("tflite", None), ("tflite", "builtin"), ("tflite", "reference")]
)
def test_integer_models_give_real_outputs(tmp_path: Path, kind: str, kernel: str | None) -> None:
    runner = open_model(write(kind, tmp_path), kernel)  # type: ignore[arg-type]
    outputs = runner.run(images())
    assert outputs.dtype == np.float32 and outputs.shape == (5, 3) == (5, runner.num_outputs)
    # Quantizing the input, convolving and averaging each round by at most half a step.
    np.testing.assert_allclose(outputs, images().mean(axis=(1, 2)), atol=2.5 * HALF_STEP)
    assert runner.metadata is not None and runner.metadata.labels == ("r", "g", "b")
    assert runner.output_kind == "logits"
    assert (runner.input.resolution, runner.input.dtype) == (SIDE, "int8")
    prepared = resolve_preprocessing(runner, Override())
    assert prepared.preprocessing == SPEC and prepared.source == "metadata in the file"


def test_run_folder_and_tflite_reference_kernels_agree_exactly(tmp_path: Path) -> None:
    outputs = [open_model(write(kind, tmp_path), "reference").run(images()) for kind in ("run", "tflite")]
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("batch", ["n", 1])
def test_onnx_batches_or_loops(tmp_path: Path, batch: int | str) -> None:
    runner = open_model(write_colour_onnx(tmp_path / "m.onnx", batch, gain=2.0))
    np.testing.assert_allclose(runner.run(images()), 2 * images().mean(axis=(1, 2)), atol=1e-6)
    assert runner.num_outputs == 3 and runner.metadata is None and runner.output_kind == "logits"


def test_softmax_outputs_are_known_as_probabilities(tmp_path: Path, data_pack: Path) -> None:
    assert open_model(write_colour_onnx(tmp_path / "m.onnx", softmax=True)).output_kind == "probabilities"
    assert open_model(data_pack / "peers" / "google_v3_small_qat_uint8.tflite").output_kind == "probabilities"
    foreign = open_model(data_pack / "peers" / "v3_small_ptq_int8.tflite", "builtin")
    assert foreign.output_kind == "logits"


def test_normalisation_of_a_foreign_file_comes_from_its_input_range(data_pack: Path) -> None:
    runner = open_model(data_pack / "peers" / "google_v3_small_qat_uint8.tflite")
    prepared = resolve_preprocessing(runner, Override(resize=240))
    spec = prepared.preprocessing
    assert (spec.mean, spec.std, spec.resize, spec.resolution) == ((0.5,) * 3, (0.5,) * 3, 240, 224)
    assert "[-1, 1]" in prepared.source


def test_a_foreign_float_file_needs_mean_and_std(tmp_path: Path) -> None:
    runner = open_model(write_colour_onnx(tmp_path / "m.onnx"))
    with pytest.raises(ModelFileError, match="give --mean R G B and --std R G B"):
        resolve_preprocessing(runner, Override())
    with pytest.raises(ModelFileError, match="together"):
        resolve_preprocessing(runner, Override(mean=(0, 0, 0)))
    with pytest.raises(ModelFileError, match="std="):
        resolve_preprocessing(runner, Override((0, 0, 0), (1, 0, 1)))
    given = resolve_preprocessing(runner, Override((0.1, 0.2, 0.3), (1, 2, 3))).preprocessing
    assert (given.mean, given.std, given.resize) == ((0.1, 0.2, 0.3), (1, 2, 3), 9)  # 8 * 256 / 224


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
@pytest.mark.parametrize("content", [b"", b"junk", b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4])
def test_files_that_are_no_models(
    tmp_path: Path, name: str, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=str(path)) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_truncated_models(tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path) if kind == "tflite" else write_colour_onnx(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelFileError, match=str(path)):
        open_model(path)


def test_a_damaged_run(tmp_path: Path) -> None:
    path = write("run", tmp_path)
    (path / "int8.safetensors").write_bytes(b"")
    with pytest.raises(QmnError, match="int8"):
        open_model(path)


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        open_model(tmp_path / "gone.tflite")
    with pytest.raises(ModelFileError, match="unknown model format"):
        open_model(tmp_path / "model.pb")
    with pytest.raises(QmnError, match="not a RUN folder"):
        open_model(tmp_path)


def test_models_that_are_no_image_classifiers(tmp_path: Path) -> None:
    for shape, message in (
        ([1, 3], "input shape"),
        (["n", 8, 8, 3], "input shape"),
        ([4, 3, 8, 8], "batch of 4"),
    ):
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        )
        path = tmp_path / "other.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        with pytest.raises(ModelFileError, match=message):
            open_model(path)


def test_xnnpack_refusal_names_the_way_out(data_pack: Path) -> None:
    with pytest.raises(ModelFileError, match=r"xnnpack kernels refuse it.*--kernel builtin"):
        open_model(data_pack / "peers" / "v3_small_ptq_int8.tflite")


def test_an_output_per_position_is_no_classifiers(tmp_path: Path) -> None:
    path = write_colour_onnx(tmp_path / "m.onnx", 1)
    model = onnx.load(path)
    del model.graph.node[1:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 3, 1, 1]))
    onnx.save(model, path)
    with pytest.raises(
        ModelFileError, match=r"m\.onnx: output shape \[1, 3, 1, 1\]; expected \[batch, classes"
    ):
        open_model(path)
