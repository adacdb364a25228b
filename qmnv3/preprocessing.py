"""What must be done to an image before a model sees it. Travels with weights, graphs and exported files."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre-crop and normalise: `(pixel / 255 - mean) / std` per RGB channel.

    `resolution` is the side of the square crop in pixels, `resize` the length the image's short side is
    scaled to before it. `mean` and `std` are for pixels in [0, 1].
    """

    resolution: int = 224
    resize: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if not 0 < self.resolution <= self.resize:
            raise ValueError(f"resolution={self.resolution} must be in 1..resize={self.resize}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean={self.mean} and std={self.std} must have three values")
        if min(self.std) <= 0 or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ValueError(f"mean={self.mean} and std={self.std} must be finite, std positive")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation={self.interpolation!r} is not bilinear or bicubic")

    @property
    def input_range(self) -> tuple[float, float]:
        """Smallest and largest normalised value any pixel can have."""
        low = min((0.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        high = max((1.0 - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return low, high

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Preprocessing":
        """Read what `to_json` wrote; unknown keys are a ValueError."""
        unknown = set(value) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown preprocessing key {sorted(unknown)[0]!r}")
        arguments: dict[str, Any] = {
            k: tuple(float(x) for x in v) if k in ("mean", "std") else v for k, v in value.items()
        }
        return cls(**arguments)
