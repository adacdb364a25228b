"""What a user of the file must know besides its numbers."""

from collections.abc import Iterator

from device_eval.lint.description import Model
from device_eval.lint.finding import Finding

_WHY = (
    "who runs the file must guess how to prepare images, and a wrong guess costs accuracy without any error"
)
_FIX = "export with qmnv3, which writes it; or add TFLite Metadata to a .tflite, metadata_props to an .onnx"


def missing_metadata(model: Model) -> Iterator[Finding]:
    """No normalization, no labels, or an entry that cannot be read."""
    carried, place = model.carried, model.path.name
    if carried.problem is not None:
        why = "whatever reads its metadata refuses the file"
        yield Finding("metadata", "error", "use", place, carried.problem, why, _FIX)
        return
    if carried.keys and not carried.normalization:
        # Keys in ONNX follow no standard: these may well say it.
        what = f"no entry qmnv3 knows in its metadata_props ({', '.join(carried.keys)})"
        yield Finding("metadata", "note", "use", place, what, _WHY, _FIX)
    elif not carried.normalization:
        what = (
            "nothing in its metadata_props" if model.format == "onnx" else "no normalization in its metadata"
        )
        yield Finding("metadata", "warning", "use", place, what, _WHY, _FIX)
    elif not carried.labels:
        why = "its outputs are numbers without class names"
        fix = "export from weights that carry their class names"
        yield Finding("metadata", "note", "use", place, "no labels in its metadata", why, fix)
