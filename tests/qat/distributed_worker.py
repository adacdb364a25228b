"""One process of a training of a small QatModel: `python distributed_worker.py OUT FORM [BATCH]`.

Writes its weights and scales to OUT/rankN.safetensors.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from quant.nets import TinyNet, randomize
from safetensors.torch import save_file

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.data.order import Position
from qmnv3.preprocessing import Preprocessing
from qmnv3.qat.config import DistillationConfig, FormsConfig, QatScheduleConfig
from qmnv3.qat.model import QatModel
from qmnv3.qat.task import QatTask
from qmnv3.training.config import OptimizerConfig, TrainConfig
from qmnv3.training.distributed import World, join_world
from qmnv3.training.loop import train

SIDE, GLOBAL_BATCH, STEPS = 32, 16, 3


class Batches:
    steps_per_epoch = STEPS

    def __init__(self, start: Position, world: World) -> None:
        self.batch, self.world = start.batch, world
        self.skipped = SkippedImages()

    def __next__(self) -> Batch:
        generator = np.random.default_rng(self.batch)
        self.batch += 1
        labels = generator.integers(0, 10, GLOBAL_BATCH)
        images = generator.uniform(-1, 1, (GLOBAL_BATCH, SIDE, SIDE, 3)) * labels[:, None, None, None] / 9
        mine = slice(self.world.rank, None, self.world.size)
        return Batch(images[mine].astype(np.float32), labels[mine], ())

    def close(self) -> None:
        pass


def main(out: Path, form: str) -> None:
    torch.set_num_threads(1)
    world = join_world("cpu")
    torch.manual_seed(0)
    spec = Preprocessing(SIDE, SIDE, (0.5,) * 3, (0.5,) * 3)
    seen = np.random.default_rng(9).uniform(-1, 1, (8, SIDE, SIDE, 3)).astype(np.float32)
    prepared = calibrate(randomize(TinyNet()), spec, lambda: iter([seen]), PtqConfig(level=0, images=8)).model
    model = QatModel(prepared, FormsConfig(activations=form, momentum=0.5))
    schedule = QatScheduleConfig(freeze_batch_norm_after=0.6)
    task = QatTask(model, schedule, DistillationConfig(weight=0), teacher=None, labelled=True)
    size = GLOBAL_BATCH // world.size
    optimizer = OptimizerConfig(kind="sgd", rate=0.01, reference_batch=GLOBAL_BATCH, weight_decay=0.0)
    config = TrainConfig(epochs=1, batch_size=size, optimizer=optimizer)
    train(task, lambda start, _: Batches(start, world), config, out, recipe={}, world=world)
    state = {f"weight.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, step in model.named_steps():
        grid = step.output.grid.qparams
        state[f"scale.{name}"] = torch.from_numpy(grid.scale.copy())
        state[f"zero_point.{name}"] = torch.from_numpy(grid.zero_point.copy())
    save_file(state, out / f"rank{world.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
