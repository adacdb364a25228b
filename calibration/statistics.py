"""One pass of the float network over the images for everything that any algorithm wants to know."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from calibration.observers import (
    ALL,
    ChannelObserver,
    Channels,
    Draws,
    HistogramObserver,
    ImageSet,
    ImageSetObserver,
    MomentObserver,
    MovingAverageObserver,
)
from calibration.progress import Progress, silent
from calibration.shares import Share
from qmnv3.errors import CalibrationError
from qmnv3.quant.fold import Normal
from qmnv3.quant.sites import Site, read_sites

Images = npt.NDArray[np.float32]
# Each call starts again at the first batch: float32 NHWC arrays, normalised.
ImageSource = Callable[[], Iterable[Images]]
Need = Literal["channels", "fisher"]
Observer = HistogramObserver | MovingAverageObserver


@dataclass(frozen=True)
class Statistics:
    """What one pass of the float network over the images showed of them and of every site.

    Read them through the methods: these give the statistics of a site's tensor as it is now, equalized or
    not. `network` is the float network itself; `observers` and `moments` hold its values. `moments` are those
    of layers with a folded BatchNorm, before the activation. With a `share` this process saw only its part of
    the images; the statistics are those of all.
    """

    network: fx.GraphModule
    images: ImageSource
    image_set: ImageSet
    moments: Mapping[str, Normal]
    observers: Mapping[str, Observer]
    _channels: Mapping[str, Channels]
    _fisher: Mapping[str, torch.Tensor]
    share: Share | None = None

    @property
    def count(self) -> int:
        """How many images there were."""
        return self.image_set.count

    @property
    def has_fisher(self) -> bool:
        """Whether gradients were collected."""
        return bool(self._fisher)

    def channels(self, site: Site) -> Channels:
        """Ends and sampled positions of the site's channels."""
        factors = site.fake_quant.factors
        return self._channels[site.name] if factors is None else self._channels[site.name].scaled(factors)

    def fisher(self, site: Site) -> torch.Tensor:
        """Diagonal Fisher information [C]: what an error in a channel costs at the network's output.

        It is the expected squared gradient of log p(y | image), y drawn from the network's own prediction,
        summed over positions. An error of variance v in channel c moves the prediction by a KL divergence
        of about fisher[c] * v / 2.
        """
        factors = site.fake_quant.factors
        return self._fisher[site.name] if factors is None else self._fisher[site.name] / factors.square()


def collect(
    prepared: fx.GraphModule,
    images: ImageSource,
    needs: frozenset[Need],
    *,
    observers: Mapping[str, Observer] | None = None,
    expected: int = 0,
    seed: int = 0,
    progress: Progress = silent,
    share: Share | None = None,
) -> Statistics:
    """Run the float network once over `images`; memory does not grow with their number.

    `observers` watch their sites too. `expected` is the number of images, for the progress bar. Of several
    processes each runs its `share` and ends with the statistics of all images: those that one process would
    have, but for the rounding of sums in float64. Raises CalibrationError for no images and for NaN or
    infinity in a tensor, naming it.
    """
    sites = read_sites(prepared)
    turns = share.turns if share else ALL
    watching: dict[str, list[ChannelObserver | Observer]] = {site.name: [] for site in sites}
    samplers: dict[str, ChannelObserver] = {}
    if "channels" in needs:
        for i, site in enumerate(sites):
            samplers[site.name] = ChannelObserver(seed + i, _per_image(site), turns)
            watching[site.name].append(samplers[site.name])
    for name, observer in (observers or {}).items():
        watching[name].append(observer)
    fisher = {site.name: torch.zeros(site.output_shape[1], dtype=torch.float64) for site in sites}
    image_set = ImageSetObserver(_pixel_step(sites))
    moments = {site.name: MomentObserver() for site in sites if site.normal is not None}
    with (
        _observing(sites, watching),
        _observing_layers(sites, moments),
        _gradients(sites, fisher, "fisher" in needs),
        progress("calibrating", -(-expected // turns.size)) as advance,
    ):
        draws = Draws(seed, turns)
        for batch in share.images() if share else images():
            _run(prepared, to_nchw(batch), draws, "fisher" in needs)
            image_set.update(batch)
            advance(len(batch))
    if share:
        for each in (image_set, *moments.values(), *samplers.values(), *(observers or {}).values()):
            share.merge(each)
        fisher = {name: share.total(own) for name, own in fisher.items()}
    seen = image_set.image_set()
    if not seen.count:
        raise CalibrationError("no images to calibrate on; give at least one")
    return Statistics(
        prepared,
        images,
        seen,
        {name: observer.moments() for name, observer in moments.items()},
        observers or {},
        {name: sampler.channels() for name, sampler in samplers.items()},
        {name: (f / seen.count).float() for name, f in fisher.items()} if "fisher" in needs else {},
        share,
    )


def to_nchw(batch: Images) -> torch.Tensor:
    """float32 NHWC array as an NCHW tensor in channels_last memory format, without a copy."""
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def _per_image(site: Site) -> int:
    # Enough of each image that few images suffice, few enough that no single one fills the sample.
    return max(16, 4096 // max(site.output_shape[1], 1))


@contextmanager
def _observing(
    sites: Iterable[Site], watching: Mapping[str, list[ChannelObserver | Observer]]
) -> Iterator[None]:
    def hook(site: Site) -> Callable[[object, object, torch.Tensor], None]:
        def observe(_module: object, _inputs: object, output: torch.Tensor) -> None:
            for observer in watching[site.name]:
                try:
                    observer.update(output.detach())
                except ValueError as error:
                    raise CalibrationError(f"{site.name}: {error}") from error

        return observe

    handles = [site.fake_quant.register_forward_hook(hook(site)) for site in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _observing_layers(sites: Iterable[Site], moments: Mapping[str, MomentObserver]) -> Iterator[None]:
    def hook(name: str) -> Callable[[object, object, torch.Tensor], None]:
        def observe(_module: object, _inputs: object, output: torch.Tensor) -> None:
            moments[name].update(output.detach())

        return observe

    handles = [
        site.layer.register_forward_hook(hook(site.name))
        for site in sites
        if site.layer is not None and site.name in moments
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pixel_step(sites: Iterable[Site]) -> float:
    """One step of an 8-bit pixel as the network sees it: the input's grid covers 255 of them."""
    qparams = next(site.fake_quant.qparams for site in sites if site.kind == "input")
    assert qparams is not None
    return float(qparams.scale)


@contextmanager
def _gradients(sites: Iterable[Site], sums: Mapping[str, torch.Tensor], wanted: bool) -> Iterator[None]:
    """Add every site's squared gradients, per channel, to `sums` whenever a backward pass runs."""

    def hook(name: str) -> Callable[[object, object, torch.Tensor], None]:
        def square(gradient: torch.Tensor) -> None:
            sums[name].add_(gradient.double().square().sum((0, 2, 3) if gradient.dim() == 4 else 0))

        def watch(_module: object, _inputs: object, output: torch.Tensor) -> None:
            output.register_hook(square)  # type: ignore[no-untyped-call]

        return watch

    handles = [site.fake_quant.register_forward_hook(hook(site.name)) for site in sites] if wanted else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(prepared: fx.GraphModule, images: torch.Tensor, draws: Draws, fisher: bool) -> None:
    if not fisher:
        with torch.inference_mode():
            prepared(images)
        return
    # A gradient through the input reaches every tensor without making one for every weight.
    logits = prepared(images.clone().requires_grad_()).flatten(1)
    # As torch.multinomial does it; itself it would want the predictions of other processes' images.
    waits = draws(
        len(logits),
        lambda count, generator: logits.new_empty(count, logits.shape[1]).exponential_(generator=generator),
    )
    drawn = (logits.detach().softmax(1) / waits).argmax(1)
    loss = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
