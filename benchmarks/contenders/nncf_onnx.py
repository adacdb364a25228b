"""NNCF's post-training quantization of an ONNX model, preset "performance" (its default) or "mixed".

`python -m benchmarks.contenders.nncf_onnx FLOAT.onnx IMAGES.npy OUT.onnx performance|mixed`
"""

import sys
from pathlib import Path

import nncf
import numpy as np
import numpy.typing as npt
import onnx


def main(source: Path, images: Path, out: Path, preset: str) -> None:
    model = onnx.load(source)
    name = model.graph.input[0].name
    data = np.load(images, mmap_mode="r")

    def feed(image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        return {name: np.ascontiguousarray(image.transpose(2, 0, 1)[None])}

    quantized = nncf.quantize(
        model,
        nncf.Dataset(data, feed),
        preset=nncf.QuantizationPreset(preset),
        subset_size=len(data),
    )
    onnx.save(quantized, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
