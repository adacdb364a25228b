"""What a RUN knows of the images it was calibrated on, and a file no longer does."""

from collections.abc import Iterator

from device_eval.lint.description import Model
from device_eval.lint.finding import Finding

CLIPPED_PERCENT, MUCH_CLIPPED_PERCENT = 1.0, 5.0
"""Range search cuts off rare values on purpose; these shares are no rare ones."""


def poor_calibration(model: Model) -> Iterator[Finding]:
    """Faults of the calibration images."""
    for fault in model.calibrated.faults:
        yield Finding(
            "calibration-images",
            "warning",
            "accuracy",
            model.path.name,
            fault,
            "ranges, equalization and biases are fitted to these images, and the file shows nothing of it",
            "calibrate again, on 100 or more varied images like those to come",
        )


def floored_scales(model: Model) -> Iterator[Finding]:
    """Tensors of which calibration saw (nearly) nothing."""
    for site, scale in model.calibrated.floored.items():
        yield Finding(
            "floored-scale",
            "note",
            "accuracy",
            f"tensor {site}",
            f"(nearly) always 0 in calibration; its scale was raised to {scale:.3g}",
            "its range is what runtimes accept, not what was seen: right if it really is always 0",
            "calibrate on images that use it, if there are such",
        )


def clipped_values(model: Model) -> Iterator[Finding]:
    """Tensors of which a large share of values lies outside the grid."""
    for site, percent in model.calibrated.clipped.items():
        if percent < CLIPPED_PERCENT:
            continue
        yield Finding(
            "clipped-values",
            "warning" if percent >= MUCH_CLIPPED_PERCENT else "note",
            "accuracy",
            f"tensor {site}",
            f"{percent:.3g} % of its values in calibration lie outside its grid",
            "what lies outside is cut off to the grid's end",
            "equalize (`--level 2` and up), or keep it in 16 bits (`--int16`)",
            percent,
        )
