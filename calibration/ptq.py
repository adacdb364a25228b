"""Post-training quantization: float model and images in, frozen fake-quantized model and report out."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from calibration.config import PtqConfig
from calibration.freeze import FlooredScale, detach_observers, freeze, hard_swish_inputs
from calibration.observers import hard_swish_input_observer, hard_swish_output_observer, make_observer
from calibration.report import layer_table, sqnr_db
from qmnv3.errors import CalibrationError
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import fake_quant
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`: the frozen model and what was seen on the way."""

    model: fx.GraphModule
    images: int
    layers: list[dict[str, Any]]
    floored: tuple[FlooredScale, ...]
    logits: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything but the model."""
        return {
            "images": self.images,
            "logits": self.logits,
            "floored_scales": [asdict(f) for f in self.floored],
            "layers": self.layers,
        }


def calibrate(
    model: nn.Module,
    preprocessing: Preprocessing,
    batches: Iterable[Images],
    config: PtqConfig,
    advance: Callable[[int], None] = lambda count: None,
) -> Calibration:
    """Prepare `model`, observe it on `batches` (float32 NHWC, normalised) in one pass, and freeze scales.

    `advance` is told the number of images of each finished batch. Memory does not grow with their number.
    Raises CalibrationError for no images and for NaN or infinity in a tensor, naming it.
    """
    prepared = prepare(model, preprocessing, config.weights.granularity)
    prepared = prepared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    attach_observers(prepared, config)
    first: tuple[torch.Tensor, torch.Tensor] | None = None
    count = 0
    with torch.inference_mode():
        for batch in batches:
            images = to_nchw(batch)
            logits = prepared(images)
            first = first or (images, logits)
            count += len(batch)
            advance(len(batch))
        if first is None:
            raise CalibrationError("no images to calibrate on; give at least one")
        floored = freeze(prepared)
        layers = layer_table(prepared)
        detach_observers(prepared)
        return Calibration(prepared, count, layers, floored, _compare_logits(prepared, *first))


def attach_observers(prepared: fx.GraphModule, config: PtqConfig) -> None:
    """Give every site that is not fixed the observer the recipe asks for."""
    sites = read_sites(prepared)
    only_hard_swish = hard_swish_inputs(sites)
    by_error = config.hard_swish.ranges == "output_error"
    exponent = config.hard_swish.error_exponent
    for site in sites:
        if site.fake_quant.fixed:
            continue
        if by_error and site.name in only_hard_swish:
            site.fake_quant.observer = hard_swish_input_observer(exponent)
        elif by_error and site.kind == "hard_swish":
            site.fake_quant.observer = hard_swish_output_observer(exponent)
        else:
            site.fake_quant.observer = make_observer(config.activations)


def to_nchw(batch: Images) -> torch.Tensor:
    """float32 NHWC array as an NCHW tensor in channels_last memory format, without a copy."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def _compare_logits(
    prepared: fx.GraphModule, images: torch.Tensor, reference: torch.Tensor
) -> dict[str, Any]:
    """How far the frozen model's logits are from float's on the first batch."""
    with fake_quant(prepared):
        quantized = prepared(images).double()
    reference = reference.double()
    noise = (quantized - reference).square().sum()
    agree = (quantized.argmax(1) == reference.argmax(1)).float().mean()
    return {
        "images": len(images),
        "sqnr_db": sqnr_db(float(reference.square().sum()), float(noise)),
        "top1_agreement": float(agree),
    }
