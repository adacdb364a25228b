"""What torch draws at random in training, dropout above all."""

import numpy as np
import torch


def seed_step(seed: int, rank: int, step: int) -> None:
    """Begin torch's random numbers anew, on all devices, as follows from `seed`, `rank` and `step` alone.

    So processes draw differently, and a run that goes on needs none of their generators' states.
    """
    (word,) = np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)
    torch.manual_seed(int(word) >> 1)
