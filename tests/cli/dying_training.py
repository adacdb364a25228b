"""The command as one of torchrun's processes: the last one dies, once, in the middle of a training.

The first prints every step that it begins.
"""

import os

from qmnv3.cli import main
from qmnv3.training import loop

DIES_AT = 4
seed_step = loop.seed_step


def seed_and_die(seed: int, rank: int, step: int) -> None:
    seed_step(seed, rank, step)
    if rank == 0:
        print(f"step {step}", flush=True)
    last = rank == int(os.environ["WORLD_SIZE"]) - 1
    if last and step == DIES_AT and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), 9)


loop.seed_step = seed_and_die
main()
