"""A frozen model as its users will run it: the int8 TFLite file, in LiteRT."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, fx

from device_eval.runners import open_model
from qmnv3.environment import usable_cpus
from qmnv3.errors import ExportError, ModelFileError
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Metadata
from qmnv3.lowering import lower
from qmnv3.quant.convert import convert

# Of one image at a time, more than a few threads only wait for each other.
_THREADS = 4


def deployed(frozen: fx.GraphModule, metadata: Metadata) -> Callable[[Tensor], Tensor]:
    """What `qmnv3 export --int8` writes, as a function of images [N, 3, H, W] to logits [N, classes].

    XNNPACK computes it, on the CPU. ExportError where TFLite or XNNPACK do not take the model.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model_int8.tflite"
        write_tflite(lower(convert(frozen, metadata), "xnnpack"), path)
        try:
            runner = open_model(path, "xnnpack", min(_THREADS, usable_cpus()))
        except ModelFileError as error:
            reason = str(error).removeprefix(f"{path}: ").rpartition("; ")[0]
            raise ExportError(
                f"model {metadata.name}, as int8 file: {reason}; train slower, or calibrate on other images"
            ) from error

    def classify(images: Tensor) -> Tensor:
        return torch.from_numpy(runner.run(images.permute(0, 2, 3, 1).numpy()))

    return classify
