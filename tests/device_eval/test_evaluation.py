import json
from pathlib import Path

import numpy as np
import pytest
from colour_models import SPEC, colour_folder, colour_graph, write_colour_onnx

from device_eval.evaluation import Subject, evaluate
from device_eval.preparation import Override, Prepared, resolve_preprocessing
from device_eval.runners import open_model
from qmnv3.data import ClassIndex, class_index, find_images
from qmnv3.errors import ModelFileError
from qmnv3.export.tflite import write_tflite
from qmnv3.preprocessing import Preprocessing

ORDER = ClassIndex((0, 1, 2))


def subject(path: Path, classes: ClassIndex = ORDER, spec: Preprocessing = SPEC) -> Subject:
    return Subject(open_model(path), Prepared(spec, "test"), classes)


def test_accuracy_on_images_of_known_colours(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set", per_class=4, wrong=1), classes=True)
    seen: list[int] = []
    result = evaluate(
        folder, subject(write_colour_onnx(tmp_path / "m.onnx")), batch_size=5, advance=seen.append
    )
    assert (result.this.top1.successes, result.this.top1.trials) == (11, 12)
    assert result.this.top5.successes == 12  # three classes: any guess is among the first five
    assert seen == [5, 5, 2]
    assert result.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    # Ties go to the lower index: green and blue of a red image.
    assert result.this.top[1].tolist() == [0, 1, 2]


def test_class_order_and_background(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set"), classes=True)
    path = write_colour_onnx(tmp_path / "m.onnx")
    reversed_order = evaluate(folder, subject(path, ClassIndex((2, 1, 0))))
    assert reversed_order.this.top1.successes == 2  # only green keeps its place
    # Output 0 (red) dropped: outputs are green, blue; red images become class 0 by the tie.
    dropped = evaluate(folder, subject(path, ClassIndex((0, 0, 1), drop_background=True)))
    assert dropped.this.top1.successes == 6


def test_comparison_with_another_model(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set", 4, wrong=1), classes=True)
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    same = evaluate(folder, subject(tmp_path / "m.tflite"), subject(write_colour_onnx(tmp_path / "m.onnx")))
    assert same.comparison is not None
    assert same.comparison.agreement.estimate == 1.0
    assert same.comparison.difference.estimate == 0.0 and same.comparison.difference.p_value == 1.0
    assert 0 <= same.comparison.mean_kl_nats < 1e-3
    negated = subject(write_colour_onnx(tmp_path / "n.onnx", gain=-1.0))
    other = evaluate(folder, subject(tmp_path / "m.onnx"), negated)
    assert other.comparison is not None
    # The blue image among the red: negated, red and green tie and the lower index is "right".
    assert (other.comparison.difference.only_this, other.comparison.difference.only_other) == (11, 1)
    # softmax(1, -1, -1) against softmax(-1, 1, 1), KL(other || this), by hand.
    p = np.exp([-1, 1, 1]) / np.exp([-1, 1, 1]).sum()
    q = np.exp([1, -1, -1]) / np.exp([1, -1, -1]).sum()
    assert other.comparison.mean_kl_nats == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)


def test_models_with_different_preprocessing_see_the_same_images(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set"), classes=True)
    path = write_colour_onnx(tmp_path / "m.onnx")
    plain = Preprocessing(8, 8, (0, 0, 0), (1, 1, 1))
    result = evaluate(folder, subject(path), subject(path, spec=plain), batch_size=4)
    assert result.comparison is not None and result.comparison.agreement.estimate == 1.0
    assert result.comparison.mean_kl_nats > 0.01  # half the contrast


def test_json_names_every_image_and_what_was_skipped(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set"), classes=True)
    folder.paths[3].write_bytes(b"junk")
    result = evaluate(folder, subject(write_colour_onnx(tmp_path / "m.onnx")), skip_bad=True)
    value = json.loads(json.dumps(result.to_json(folder.root), allow_nan=False))
    assert value["images"] == 5 and value["skipped"] == ["b_green/1.png"]
    assert value["predictions"][2] == {"image": "b_green/0.png", "class": 1, "top5": [1, 0, 2]}
    assert value["top1"]["successes"] == 5


def test_outputs_that_are_not_finite_name_the_image(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set"), classes=True)
    broken = subject(write_colour_onnx(tmp_path / "m.onnx", gain=float("nan")))
    with pytest.raises(ModelFileError, match=r"a_red/0\.png are NaN or infinite"):
        evaluate(folder, broken)


def test_models_with_different_classes_cannot_be_compared(tmp_path: Path) -> None:
    folder = find_images(colour_folder(tmp_path / "set"), classes=True)
    path = write_colour_onnx(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="cannot be compared"):
        evaluate(folder, subject(path), subject(path, ClassIndex((2, 1, 0))))


def test_googles_release_reaches_its_known_accuracy(data_pack: Path) -> None:
    folder = find_images(data_pack / "imagenet" / "val", classes=True)
    runner = open_model(data_pack / "peers" / "google_v3_small_qat_uint8.tflite", threads=2)
    prepared = resolve_preprocessing(runner, Override())
    result = evaluate(folder, Subject(runner, prepared, class_index(folder, runner.num_outputs)))
    # The pack's README says 78.2 %: 508 of 650. One image more or less is another CPU's rounding.
    assert abs(result.this.top1.successes - 508) <= 2
    assert result.skipped.count == 0
