"""ONNX Runtime's quantize_static: QDQ, uint8 activations, int8 weights per channel.

`python -m benchmarks.contenders.onnxruntime_static FLOAT.onnx IMAGES.npy OUT.onnx minmax|percentile`
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod

METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, images: Path) -> None:
        self._name = name
        self._images = iter(np.load(images, mmap_mode="r"))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: np.ascontiguousarray(image.transpose(2, 0, 1)[None])}


def main(source: Path, images: Path, out: Path, method: str) -> None:
    # Advice to fold and simplify the model first: qmnv3's export already is.
    logging.disable(logging.WARNING)
    graph = onnx.load(source, load_external_data=False).graph
    quantize_static(
        source,
        out,
        _Reader(graph.input[0].name, images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
