"""Who takes part in benchmarks.accuracy, and the commands that make each one's model from the same photos."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FLOAT_TFLITE, FLOAT_ONNX, FLOAT_PT2 = "model_float32.tflite", "model_float32.onnx", "model_float32.pt2"
INT8_TFLITE, INT8_ONNX, INT8_PT2 = "model_int8.tflite", "model_int8.onnx", "model_int8.pt2"
RUN, PHOTOS = "run", "calibration.npy"
LADDER = (
    "min-max",
    "range search",
    "and equalization",
    "and bias correction",
    "and AdaRound",
    "and block reconstruction",
)
# The float parent needs a RUN, and a RUN photos; what they calibrate is thrown away.
PARENT_IMAGES = 8


@dataclass(frozen=True)
class Inputs:
    """What every contender starts from. `parent` is the folder that `PARENT` fills.

    In it are the RUN, the float files and the preprocessed photos, the same that `qmnv3 ptq` draws.
    """

    model: str
    weights: Path
    calib: Path
    images: int
    seed: int
    parent: Path


@dataclass(frozen=True)
class Step:
    """One process; only `timed` ones count as quantizing."""

    command: tuple[str, ...]
    timed: bool = True


Steps = Callable[[Inputs, Path, str], tuple[Step, ...]]


@dataclass(frozen=True)
class Contender:
    """`steps(inputs, folder, python)` write `models` into `folder`; one row of the table for each.

    `environment` names the interpreter they need, None qmnv3's own; `distribution` the package whose version
    is recorded.
    """

    name: str
    label: str
    steps: Steps
    models: tuple[str, ...]
    environment: str | None = None
    distribution: str = "qmnv3"


def _float(inputs: Inputs, folder: Path, python: str) -> tuple[Step, ...]:
    run, count = folder / RUN, str(inputs.images)
    photos = (str(run), str(inputs.calib), count, str(inputs.seed), str(folder / PHOTOS))
    commands = (
        _ptq(inputs, run, images=min(PARENT_IMAGES, inputs.images), level=0),
        _export(run, folder, "float32"),
        (python, "-m", "benchmarks.accuracy_photos", *photos),
    )
    return tuple(Step(command, timed=False) for command in commands)


def _ladder(level: int) -> Steps:
    def steps(inputs: Inputs, folder: Path, python: str) -> tuple[Step, ...]:
        run = folder / RUN
        quantize = _ptq(inputs, run, images=inputs.images, level=level)
        return Step(quantize), Step(_export(run, folder, "int8"))

    return steps


def _ptq(inputs: Inputs, out: Path, *, images: int, level: int) -> tuple[str, ...]:
    options = {
        "--model": inputs.model,
        "--weights": str(inputs.weights),
        "--calib": str(inputs.calib),
        "--images": str(images),
        "--seed": str(inputs.seed),
        "--level": str(level),
        "--out": str(out),
    }
    return (sys.executable, "-m", "qmnv3", "ptq", *(item for pair in options.items() for item in pair))


def _export(run: Path, out: Path, precision: str) -> tuple[str, ...]:
    options = (f"--{precision}", "--checkpoint", str(run), "--out", str(out))
    return (sys.executable, "-m", "qmnv3", "export", *options)


def _script(name: str, source: str, out: str, *variant: str) -> Steps:
    """A script of benchmarks.contenders on `source`, a file or folder of the float parent."""

    def steps(inputs: Inputs, folder: Path, python: str) -> tuple[Step, ...]:
        paths = (inputs.parent / source, inputs.parent / PHOTOS, folder / out)
        return (Step((python, "-m", f"benchmarks.contenders.{name}", *map(str, paths), *variant)),)

    return steps


def _torchao(inputs: Inputs, folder: Path, python: str) -> tuple[Step, ...]:
    def command(out: str, precision: str) -> tuple[str, ...]:
        paths = (inputs.weights, inputs.parent / PHOTOS, folder / out)
        script = (python, "-m", "benchmarks.contenders.torchao_pt2e")
        return (*script, inputs.model, *map(str, paths), precision)

    return Step(command(FLOAT_PT2, "float32"), timed=False), Step(command(INT8_PT2, "int8"))


# All others start from what this one leaves in its folder.
PARENT = Contender("float", "float32", _float, (FLOAT_TFLITE, FLOAT_ONNX))
PARENT_FILES = (FLOAT_TFLITE, FLOAT_ONNX, PHOTOS)

CONTENDERS: tuple[Contender, ...] = (
    PARENT,
    *(
        Contender(f"qmnv3-{level}", f"qmnv3 level {level}: {name}", _ladder(level), (INT8_TFLITE, INT8_ONNX))
        for level, name in enumerate(LADDER)
    ),
    *(
        Contender(
            f"onnxruntime-{method}",
            f"quantize_static, {method}",
            _script("onnxruntime_static", FLOAT_ONNX, INT8_ONNX, method),
            (INT8_ONNX,),
            distribution="onnxruntime",
        )
        for method in ("minmax", "percentile")
    ),
    Contender(
        "tensorflow",
        "TFLiteConverter",
        _script("tflite_converter", RUN, INT8_TFLITE),
        (INT8_TFLITE,),
        "tensorflow",
        "tensorflow-cpu",
    ),
    Contender("torchao", "torchao PT2E", _torchao, (INT8_PT2,), "torchao", "torchao"),
    *(
        Contender(
            f"nncf-{preset}",
            f"NNCF, {preset} preset",
            _script("nncf_onnx", FLOAT_ONNX, INT8_ONNX, preset),
            (INT8_ONNX,),
            "nncf",
            "nncf",
        )
        for preset in ("performance", "mixed")
    ),
)
