"""BatchNorm's statistics taken anew."""

import torch
from torch import nn

from qmnv3.training.batch_norm import reestimate_batch_norm


def test_statistics_are_plain_means_over_the_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4))
    batches = [torch.randn(5, 3, 6, 6) + shift for shift in (0.0, 1.0, 4.0)]
    reestimate_batch_norm(model, batches)
    with torch.no_grad():
        first = [model[0](batch) for batch in batches]
        own = [nn.functional.batch_norm(maps, None, None, training=True) for maps in first]
    for norm, maps in ((model[1], first), (model[3], own)):  # dropout takes no part
        mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
        variance = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-5, atol=1e-6)
        assert norm.momentum == 0.1 and not norm.training
