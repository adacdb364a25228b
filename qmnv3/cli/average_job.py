"""The whole of `qmnv3 average`: load, average, take statistics anew, judge, save."""

from collections.abc import Sequence
from pathlib import Path

from qmnv3.cli.progress import progress
from qmnv3.cli.training_data import class_outputs, find_training_data, validation, whole_images
from qmnv3.data.loader import SkippedImages
from qmnv3.errors import ModelError, TrainingError, WeightsError
from qmnv3.models.average import average_weights
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model
from qmnv3.training.batch_norm import reestimate_batch_norm
from qmnv3.training.distributed import join_world

_SEED = 0


def run_average(
    checkpoints: Sequence[Path],
    model: str,
    data: Path | str,
    val: Path | str | None,
    out: Path,
    *,
    resolution: int | None,
    images: int,
    device: str,
) -> dict[str, float]:
    """Write the average to `out`; validation accuracy of each checkpoint and of the average, by path.

    Without validation images it is empty. Raises a QmnError for anything wrong with checkpoints or images.
    """
    if len(checkpoints) < 2:
        raise WeightsError(f"{checkpoints[0]}: one checkpoint has no average; give two or more")
    if out.suffix != ".safetensors" or out.resolve() in {path.resolve() for path in checkpoints}:
        raise WeightsError(f"{out}: give a new file, ending in .safetensors, as --out")
    if join_world(device).size > 1:
        raise TrainingError("average is one process's work; start it without torchrun")
    loaded = [load_model(model, path, resolution=resolution) for path in checkpoints]
    first = loaded[0]
    network = first.model
    if not isinstance(network, MobileNet):
        raise ModelError(f"model {model}: only built-in models can be averaged")
    for path, other in zip(checkpoints, loaded, strict=True):
        if other.preprocessing != first.preprocessing:
            raise WeightsError(
                f"{path}: prepares images differently from {checkpoints[0]}: {other.preprocessing}; "
                "--resolution sets one for all, other differences cannot be averaged"
            )
    names = [str(path) for path in checkpoints]
    models = [each.model for each in loaded]
    average = average_weights(dict(zip(names, models, strict=True)))
    found = find_training_data(data, val, labels=None)
    classes = class_outputs(found, network.config.num_classes)[1]
    judge = validation(found, first.preprocessing, device, classes, SkippedImages())
    accuracies = {}
    with progress("averaging", len(models) + 2) as advance:
        for name, each in zip(names, models, strict=True):
            if judge:
                accuracies[name] = judge(each.to(device))
            advance(1)
        network.load_state_dict(average)
        network.to(device)
        reestimate_batch_norm(network, whole_images(found, first.preprocessing, images, _SEED, device))
        advance(1)
        if judge:
            accuracies[str(out)] = judge(network)
    save_checkpoint(out, network.cpu(), first.preprocessing)
    return accuracies
