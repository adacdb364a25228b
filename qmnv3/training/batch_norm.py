"""BatchNorm's running statistics, taken anew."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Make running statistics their plain means over `batches` [N, 3, H, W]; leaves `model` in eval mode.

    In training they follow crops and blends, and weights that were changing: those of whole images under
    the final weights fit what is evaluated (Touvron et al. 2019; Wu and Johnson 2021).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    model.eval()
    with averaging(norms):
        for norm in norms:
            norm.train()
        for images in batches:
            model(images)
    model.eval()


@contextmanager
def averaging(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Running statistics become averages over all that is seen; until then they stay what they were."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()  # so that the first batch replaces what was there
        norm.momentum = None  # a cumulative average
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
