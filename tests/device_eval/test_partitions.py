from collections import Counter
from pathlib import Path

import pytest
from colour_models import colour_graph, write_colour_onnx

from device_eval.onnx_operations import optimized_operations
from device_eval.partitions import delegate_partitions
from qmnv3.errors import ModelFileError
from qmnv3.export.tflite import write_tflite


def test_a_graph_xnnpack_takes_whole_is_one_partition(tmp_path: Path) -> None:
    write_tflite(colour_graph(), tmp_path / "m.tflite")
    partitions = delegate_partitions(tmp_path / "m.tflite")
    assert (partitions.count, partitions.undelegated, partitions.refused) == (1, (), None)
    assert partitions.delegated_ops == sum(partitions.op_counts.values())


def test_hard_swish_breaks_googles_release_into_pieces(data_pack: Path) -> None:
    partitions = delegate_partitions(data_pack / "peers" / "google_v3_small_qat_uint8.tflite")
    outside = Counter(name for _, name in partitions.undelegated)
    # V3-Small has 19 h-swish; uint8 average pooling (9 SE, 2 more) and softmax have no XNNPACK kernel either.
    assert outside == {"HARD_SWISH": 19, "AVERAGE_POOL_2D": 11, "SOFTMAX": 1}
    assert partitions.count == 21
    assert partitions.delegated_ops + len(partitions.undelegated) == sum(partitions.op_counts.values()) == 119
    assert partitions.op_counts["HARD_SWISH"] == 19


def test_a_refused_model_has_no_partition(data_pack: Path, capfd: pytest.CaptureFixture[str]) -> None:
    partitions = delegate_partitions(data_pack / "peers" / "v3_small_ptq_int8.tflite")
    assert partitions.count == 0 and partitions.refused is not None
    assert len(partitions.undelegated) == sum(partitions.op_counts.values()) == 113
    assert capfd.readouterr().err == ""


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"junk")
    with pytest.raises(ModelFileError):
        delegate_partitions(tmp_path / "m.tflite")


def test_float_operations_of_onnx(tmp_path: Path) -> None:
    operations = optimized_operations(write_colour_onnx(tmp_path / "m.onnx", softmax=True, gain=2.0))
    assert operations.float_ops == operations.op_counts
    assert operations.op_counts == {"GlobalAveragePool": 1, "Flatten": 1, "Mul": 1, "Softmax": 1}
