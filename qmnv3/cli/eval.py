"""`qmnv3 eval`: accuracy of a model file on labelled images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmnv3.cli.options import KernelName, table_console

if TYPE_CHECKING:
    from device_eval.evaluation import Comparison, Evaluation, Subject
    from device_eval.preparation import Override
    from device_eval.runners import Runner
    from device_eval.statistics import Proportion
    from qmnv3.data import ImageFolder

SAMPLE_SEED = 0


Triple = tuple[float, float, float]

EXAMPLES = """
Top-1 and top-5 accuracy with 95 % intervals; preprocessing comes from the model file.

**Examples**

    qmnv3 eval out/model_int8.tflite --data imagenet/val --against out/model_float32.tflite

    qmnv3 eval runs/small --data imagenet/val --images 100 --json small.json

    qmnv3 eval foreign.onnx --data photos/ --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
"""


def command(
    model: Annotated[Path, typer.Argument(help="A .tflite, an .onnx or a RUN folder.")],
    data: Annotated[Path, typer.Option(help="Images, one folder per class: DIR/CLASS/IMAGE.jpg.")],
    against: Annotated[Path | None, typer.Option(help="Another model to compare with, pairwise.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Only so many, drawn evenly from classes.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 32,
    kernel: Annotated[KernelName | None, typer.Option(help="LiteRT kernels (default xnnpack).")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode images.")] = 2,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count unreadable images, go on.")] = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="JSON {folder: name} of all classes, if no classes.json is beside DIR."),
    ] = None,
    mean: Annotated[Triple | None, typer.Option(help="For files without metadata, pixels in 0..1.")] = None,
    std: Annotated[Triple | None, typer.Option(help="For files without metadata, pixels in 0..1.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Short side, for files without metadata.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write results and every prediction here.")] = None,
) -> None:
    """Top-1 and top-5 with 95 % intervals, preprocessing taken from the model file."""
    from device_eval.evaluation import evaluate, make_subject
    from device_eval.preparation import Override
    from device_eval.runners import open_model
    from qmnv3.cli.progress import progress
    from qmnv3.data import find_images, sample

    folder = find_images(data, classes=True)
    chosen = kernel.kernel if kernel is not None else None
    runners = [open_model(path, chosen, threads) for path in (model, against) if path is not None]
    override = Override(mean, std, resize)
    check_override(runners, override)
    subjects = [make_subject(runner, folder, override, classes) for runner in runners]
    indices = sample(folder, images, SAMPLE_SEED) if images is not None else tuple(range(len(folder)))
    with progress("evaluating", len(indices)) as advance:
        result = evaluate(
            folder,
            subjects[0],
            subjects[1] if against is not None else None,
            indices=indices,
            batch_size=batch,
            workers=workers,
            skip_bad=skip_bad,
            advance=advance,
        )
    _print(result, subjects, folder)
    if json is not None:
        _write(json, result, subjects, folder, threads)


command.__doc__ = EXAMPLES


def check_override(runners: "list[Runner]", override: "Override") -> None:
    """ModelFileError where preprocessing is given though every file carries its own."""
    from device_eval.preparation import Override
    from qmnv3.errors import ModelFileError

    if override != Override() and all(runner.metadata is not None for runner in runners):
        raise ModelFileError(
            f"{runners[0].path}: carries its own preprocessing; leave out --mean, --std and --resize"
        )


def _print(result: "Evaluation", subjects: "list[Subject]", folder: "ImageFolder") -> None:
    from rich.table import Table

    console = table_console()
    table = Table(title=f"{len(result.paths)} images of {folder.root}", title_justify="left")
    for heading in ("model", "runtime", "top-1 %", "top-5 %"):
        table.add_column(heading, overflow="fold")
    accuracies = [accuracy for accuracy in (result.this, result.other) if accuracy is not None]
    for subject, accuracy in zip(subjects, accuracies, strict=True):
        runner = subject.runner
        table.add_row(runner.path.name, runner.runtime, _percent(accuracy.top1), _percent(accuracy.top5))
    console.print(table)
    if result.comparison is not None:
        typer.echo(_comparison(result.comparison))
    _print_notes(result, subjects)


def _comparison(comparison: "Comparison") -> str:
    difference = comparison.difference
    return (
        f"top-1 difference {100 * difference.estimate:+.1f} points "
        f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}], McNemar p={difference.p_value:.3g}; "
        f"same top-1 on {_percent(comparison.agreement)} %; mean KL {comparison.mean_kl_nats:.4f} nats"
    )


def _print_notes(result: "Evaluation", subjects: "list[Subject]") -> None:
    for subject in subjects:
        spec = subject.prepared.preprocessing
        typer.echo(
            f"{subject.runner.path.name}: {spec.resolution}x{spec.resolution} from short side {spec.resize}, "
            f"mean {_triple(spec.mean)}, std {_triple(spec.std)} ({subject.prepared.source})"
        )
        if subject.classes.drop_background:
            typer.echo(
                f"{subject.runner.path.name}: {subject.runner.num_outputs} outputs; output 0 taken as "
                "background and dropped"
            )
    if result.skipped.count:
        names = ", ".join(path.name for path in result.skipped.paths)
        typer.echo(f"skipped {result.skipped.count} unreadable images: {names}")


def _write(
    path: Path, result: "Evaluation", subjects: "list[Subject]", folder: "ImageFolder", threads: int
) -> None:
    from qmnv3.environment import environment
    from qmnv3.files import write_json

    models = [
        {
            "path": str(subject.runner.path),
            "runtime": subject.runner.runtime,
            "outputs": subject.runner.num_outputs,
            "dropped_background": subject.classes.drop_background,
            "preprocessing": subject.prepared.preprocessing.to_json(),
            "preprocessing_source": subject.prepared.source,
        }
        for subject in subjects
    ]
    head = {"command": "eval", "data": str(folder.root), "threads": threads, "models": models}
    write_json(path, {**head, "environment": environment(), **result.to_json(folder.root)})


def _percent(value: "Proportion") -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _triple(values: Triple) -> str:
    return "/".join(f"{value:.4g}" for value in values)
