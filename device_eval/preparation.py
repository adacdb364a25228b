"""How images must be prepared for a model, from its file or, for foreign files, from its input's range."""

from dataclasses import dataclass

from device_eval.runners.interface import Runner
from qmnv3.errors import ModelFileError
from qmnv3.preprocessing import Preprocessing

Triple = tuple[float, float, float]

# A quantized input's range ends within this fraction of the range of the normalisation it was made for.
RANGE_TOLERANCE = 0.05
COMMON_NORMALISATIONS: dict[str, tuple[Triple, Triple]] = {
    "[-1, 1]": ((0.5,) * 3, (0.5,) * 3),
    "[0, 1]": ((0.0,) * 3, (1.0,) * 3),
    "[0, 255]": ((0.0,) * 3, (1 / 255,) * 3),
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Override:
    """What the user says about a file that does not say it itself."""

    mean: Triple | None = None
    std: Triple | None = None
    resize: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A model's preprocessing and, for people, where it comes from."""

    preprocessing: Preprocessing
    source: str


def resolve_preprocessing(runner: Runner, override: Override) -> Prepared:
    """The file's own preprocessing, else `override` completed by the input's quantized range.

    The short side defaults to 256/224 of the resolution. Raises ModelFileError when a foreign file's
    normalisation can neither be inferred nor was given, or the file disagrees with its own metadata.
    """
    resolution = runner.input.resolution
    if runner.metadata is not None:
        own = runner.metadata.preprocessing
        if own.resolution != resolution:
            raise ModelFileError(
                f"{runner.path}: metadata says {own.resolution} pixels but the input has {resolution}; "
                "export it again"
            )
        return Prepared(own, "metadata in the file")
    mean, std, source = _normalisation(runner, override)
    resize = override.resize or round(resolution * 256 / 224)
    try:
        return Prepared(Preprocessing(resolution, resize, mean, std), source)
    except ValueError as error:
        raise ModelFileError(f"{runner.path}: {error}") from error


def _normalisation(runner: Runner, override: Override) -> tuple[Triple, Triple, str]:
    if override.mean is not None and override.std is not None:
        return override.mean, override.std, "--mean and --std"
    if override.mean is not None or override.std is not None:
        raise ModelFileError(f"{runner.path}: give --mean and --std together")
    value_range = runner.input.value_range
    for name, (mean, std) in COMMON_NORMALISATIONS.items():
        if value_range is not None and _close(value_range, Preprocessing(mean=mean, std=std).input_range):
            return mean, std, f"no metadata; pixels scaled to {name} as its quantized input suggests"
    raise ModelFileError(
        f"{runner.path}: carries no preprocessing and its input range {value_range} suggests none; "
        "give --mean R G B and --std R G B (for pixels in 0..1)"
    )


def _close(found: tuple[float, float], wanted: tuple[float, float]) -> bool:
    slack = RANGE_TOLERANCE * (wanted[1] - wanted[0])
    return abs(found[0] - wanted[0]) <= slack and abs(found[1] - wanted[1]) <= slack
