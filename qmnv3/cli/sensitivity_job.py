"""The whole of `qmnv3 sensitivity`: load, calibrate as ptq does, measure, and write the two files."""

from collections.abc import Collection
from pathlib import Path

from calibration.config import PtqConfig
from calibration.progress import Progress, silent
from calibration.ptq import calibrate
from calibration.sensitivity import Analysis, Mode, analyse
from qmnv3.cli.ptq_job import Photos, PtqJob, fingerprint, load
from qmnv3.cli.sensitivity_plot import plot
from qmnv3.cli.skipped import skipped_line
from qmnv3.data.folder import find_images, sample
from qmnv3.environment import environment
from qmnv3.errors import DataError
from qmnv3.files import atomic_files, write_json

# Up to here no bias makes up for rounding. Approximate equalization changes the function a little: the
# analysis says how much.
HIGHEST_LEVEL = 2


def run_sensitivity(
    job: PtqJob, modes: Collection[Mode], progress: Progress = silent
) -> tuple[Analysis, list[str]]:
    """Measure `job.model` and write `sensitivity.json` and `sensitivity.svg` into `job.out`.

    Returns what is wrong with the images too, a line each.
    Raises a QmnError for anything wrong with the model, the weights or the images; then nothing is written.
    """
    _check_out(job.out)
    config = job.config.model_copy(update={"level": min(job.config.level, HIGHEST_LEVEL)})
    folder = find_images(job.images, classes=False)
    loaded = load(job)
    chosen = sample(folder, config.images, config.seed)
    photos = Photos(folder, loaded.preprocessing, config.batch_size, chosen, job.skip_bad)
    calibration = calibrate(loaded.model, loaded.preprocessing, photos, config, progress)
    analysis = analyse(calibration.model, calibration.statistics, modes=modes, progress=progress)
    warnings = [*skipped_line(photos.skipped), *calibration.coverage]
    provenance = _provenance(job, config) | {
        "skipped_images": [str(path) for path in photos.skipped],
        "warnings": warnings,
    }
    with atomic_files(job.out) as folder_out:
        write_json(folder_out / "sensitivity.json", analysis.to_json() | provenance)
        (folder_out / "sensitivity.svg").write_text(plot(analysis.rows), encoding="utf-8")
    return analysis, warnings


def _provenance(job: PtqJob, config: PtqConfig) -> dict[str, object]:
    return {
        "command": "sensitivity",
        "model": job.model,
        "weights": fingerprint(job.weights),
        "calibration_images": str(job.images),
        "recipe": config.model_dump(),
        "environment": environment(),
    }


def _check_out(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: exists and is not a folder; choose another --out")
