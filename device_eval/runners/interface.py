"""What evaluation needs from any executable model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from qmnv3.ir import Metadata

FloatArray = npt.NDArray[np.float32]
Kernel = Literal["xnnpack", "builtin", "reference"]
OutputKind = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class InputDescription:
    """A square RGB input: side in pixels, stored dtype, and the reals its integer grid covers, if any."""

    resolution: int
    dtype: str
    value_range: tuple[float, float] | None = None


class Runner(Protocol):
    """A classifier opened from a file, ready to run on normalised images."""

    @property
    def path(self) -> Path:
        """The file or RUN folder."""

    @property
    def runtime(self) -> str:
        """Runtime and kernels, for people."""

    @property
    def num_outputs(self) -> int:
        """Width of the output."""

    @property
    def output_kind(self) -> OutputKind:
        """Whether the network ends in a softmax."""

    @property
    def metadata(self) -> Metadata | None:
        """Preprocessing and labels the file carries; None for foreign files."""

    @property
    def input(self) -> InputDescription:
        """What the network reads."""

    def run(self, images: FloatArray) -> FloatArray:
        """Outputs float32 [N, num_outputs] of normalised images float32 [N, H, W, 3]."""


class Invocable(Protocol):
    """A runner whose execution can be timed apart from handing data in and out."""

    def stage(self, images: FloatArray) -> None:
        """Hand in one image [1, H, W, 3]."""

    def invoke(self) -> None:
        """Execute the network on what was staged."""
