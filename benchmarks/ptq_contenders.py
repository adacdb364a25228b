"""What benchmarks.ptq compares: each contender goes through the same images once, in batches of one size.

`python -m benchmarks.ptq_contenders NAME JSON` runs one alone in a fresh process and prints, as JSON, its
seconds and the peak of that process's memory. Imports are per contender, so that memory is its own.
"""

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH_SIZE = 20  # the default of PtqConfig


@dataclass(frozen=True)
class Setting:
    """The common task; `onnx` is the float32 export of the same model and weights."""

    model: str
    weights: str | None
    calib: str
    images: int
    onnx: str


def run_float(setting: Setting) -> float:
    """Seconds to decode, preprocess and run the float model; loading it is not counted."""
    import torch

    from qmnv3.models.weights import load_model

    loaded = load_model(setting.model, Path(setting.weights) if setting.weights else None)
    model = loaded.model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = time.perf_counter()
    with torch.inference_mode():
        for images in _batches(setting, loaded.preprocessing):
            model(torch.from_numpy(images).permute(0, 3, 1, 2))
    return time.perf_counter() - started


def run_qmnv3(setting: Setting) -> float:
    """Seconds of `qmnv3 ptq` with the default recipe, from the folder of images to the saved RUN."""
    from calibration.config import PtqConfig
    from qmnv3.cli.ptq_job import PtqJob, run_ptq
    from recipes import load_recipe

    config = load_recipe("ptq", PtqConfig, images=setting.images, batch_size=BATCH_SIZE)
    weights = Path(setting.weights) if setting.weights else None
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_ptq(PtqJob(setting.model, weights, Path(setting.calib), Path(folder, "run"), config))
        return time.perf_counter() - started


def run_onnxruntime(setting: Setting) -> float:
    """Seconds of quantize_static: QDQ, uint8 activations by min-max, int8 weights per channel."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod

    from qmnv3.export.onnx_qdq import read_metadata

    metadata = read_metadata(Path(setting.onnx))
    assert metadata is not None
    preprocessing, name = metadata.preprocessing, _input_name(setting.onnx)
    # Advice to fold and simplify the model first: qmnv3's export already is.
    logging.disable(logging.WARNING)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(setting, preprocessing)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: np.ascontiguousarray(batch.transpose(0, 3, 1, 2))}

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        quantize_static(
            setting.onnx,
            Path(folder, "int8.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return time.perf_counter() - started


CONTENDERS: dict[str, Callable[[Setting], float]] = {
    "float": run_float,
    "qmnv3": run_qmnv3,
    "onnxruntime": run_onnxruntime,
}


def peak_memory_mib() -> float:
    """Peak resident memory of this process so far, in MiB (Linux).

    Not getrusage: on Linux its maximum also counts what the parent process held when it started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def setting_json(setting: Setting) -> str:
    """The command-line form of `setting`."""
    return json.dumps(asdict(setting))


def _batches(setting: Setting, preprocessing: Any) -> Iterator[npt.NDArray[np.float32]]:
    from qmnv3.data import find_images, load_batches, sample

    folder = find_images(Path(setting.calib), classes=False)
    chosen = sample(folder, setting.images, seed=0)
    for batch in load_batches(folder, preprocessing, BATCH_SIZE, indices=chosen):
        yield batch.images


def _input_name(path: str) -> str:
    import onnx

    return str(onnx.load(path, load_external_data=False).graph.input[0].name)


if __name__ == "__main__":
    seconds = CONTENDERS[sys.argv[1]](Setting(**json.loads(sys.argv[2])))
    print(json.dumps({"seconds": seconds, "peak_mib": peak_memory_mib()}))
