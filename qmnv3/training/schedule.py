"""The learning rate's course."""

import math

from qmnv3.training.config import ScheduleConfig


def rate_factor(config: ScheduleConfig, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """What the rate is multiplied by at optimizer step `step`, counted from 0.

    A function of the step alone: a run that is resumed needs no state for it. Warm-up ends at 1; the decay
    counts epochs from the start of training, a cosine from the end of the warm-up.
    """
    epoch = step / steps_per_epoch
    if epoch < config.warmup_epochs:
        return (step + 1) / (config.warmup_epochs * steps_per_epoch + 1)
    if config.kind == "exponential":
        passed = epoch / config.every_epochs
        return config.decay ** (math.floor(passed) if config.staircase else passed)
    if config.kind == "cosine":
        done = (epoch - config.warmup_epochs) / max(epochs - config.warmup_epochs, 1 / steps_per_epoch)
        return config.final + (1.0 - config.final) * (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0
    return 1.0
