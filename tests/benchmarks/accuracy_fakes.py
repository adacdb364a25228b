"""Contenders of benchmarks.accuracy that take no time: they copy a colour classifier, ready-made."""

import sys
from pathlib import Path

from colour_models import colour_folder, colour_graph

from benchmarks import accuracy
from benchmarks.accuracy_contenders import FLOAT_ONNX, FLOAT_TFLITE, PHOTOS, Contender, Inputs, Step
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.lowering import lower

COPY = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2]); open(sys.argv[3], 'a').write('ran\\n')"
PER_CLASS = 4


class Workshop:
    """A folder of images, models to hand out, and a diary of every step that ran."""

    def __init__(self, root: Path) -> None:
        self.images = colour_folder(root / "images", PER_CLASS)
        self.weights = root / "weights.bin"
        self.weights.write_bytes(b"weights")
        self.out = root / "out"
        self.diaries = root / "diaries"
        self.diaries.mkdir()
        self.ready = root / "ready"
        self.ready.mkdir()
        write_tflite(colour_graph(), self.ready / FLOAT_TFLITE)
        write_onnx(lower(colour_graph(), "ort", "float32"), self.ready / FLOAT_ONNX)
        (self.ready / PHOTOS).write_bytes(b"photos")

    def copying(
        self, name: str, *files: str, judged: tuple[str, ...] = (), environment: str | None = None
    ) -> Contender:
        """A contender that copies ready-made `files`; the `judged` ones are rows of the table."""

        def steps(inputs: Inputs, folder: Path, python: str) -> tuple[Step, ...]:
            diary = str(self.diaries / name)
            return tuple(
                Step((sys.executable, "-c", COPY, str(self.ready / file), str(folder / file), diary))
                for file in files
            )

        return Contender(name, f"label of {name}", steps, judged, environment, "numpy")

    def parent(self, *judged: str) -> Contender:
        return self.copying("float", FLOAT_TFLITE, FLOAT_ONNX, PHOTOS, judged=judged)

    def saying(self, name: str, program: str) -> Contender:
        """A contender whose only step is the Python `program`."""
        step = Step((sys.executable, "-c", program))
        return Contender(name, f"label of {name}", lambda inputs, folder, python: (step,), (FLOAT_TFLITE,))

    def times_run(self, name: str) -> int:
        diary = self.diaries / name
        return len(diary.read_text().splitlines()) if diary.exists() else 0

    def benchmark(self, **options: object) -> None:
        defaults = {"images": 6, "runs": 3, "calib": self.images, "val": self.images}
        accuracy.main(**{"model": "tiny", "weights": self.weights, "out": self.out, **defaults, **options})
