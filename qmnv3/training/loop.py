"""The training loop: any task, resumable to the bit."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qmnv3.data.loader import Batch, SkippedImages
from qmnv3.data.order import Position
from qmnv3.errors import TrainingError, TrainingStopped
from qmnv3.files import remove_leftovers
from qmnv3.training.checkpoints import (
    BEST,
    LAST,
    Progress,
    Trained,
    begin_again,
    load_weights,
    read_state,
    save_state,
)
from qmnv3.training.config import TrainConfig
from qmnv3.training.diagnosis import not_finite, note_loss
from qmnv3.training.distributed import (
    ALONE,
    World,
    alone,
    from_leader,
    largest,
    names_of_all,
    reaching_others,
)
from qmnv3.training.ema import Ema
from qmnv3.training.logs import EVENTS, LOG, JsonLines, Reporter, Silent, TensorBoard
from qmnv3.training.loss import loss_of
from qmnv3.training.memory import keep_freed_memory
from qmnv3.training.optimizer import make_optimizer, set_rate
from qmnv3.training.randomness import seed_step
from qmnv3.training.schedule import rate_factor
from qmnv3.training.stopping import Stop, asked_to_stop
from qmnv3.training.tally import NO_CLASS, Tally
from qmnv3.training.task import Diverged, Task

CHECKPOINTS = "checkpoints"


class Batches(Protocol):
    """Endless batches; see `qmnv3.data.training_batches.TrainingBatches`."""

    steps_per_epoch: int
    skipped: SkippedImages

    def __next__(self) -> Batch: ...
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Outcome:
    """What came out: `best` is the best validation result, `start` that of what training began with.

    None where there was none. The images that could not be read are those `skipped`. So many processes began
    it, whose batches together were those of an update.
    """

    steps: int
    best: float | None
    start: float | None
    seconds: float
    skipped: tuple[str, ...]
    begun_by: int

    @property
    def kept_start(self) -> bool:
        """Whether no epoch was better than what training began with."""
        return self.start is not None and self.start == self.best


def train(
    task: Task,
    batches: Callable[[Position, int], Batches],
    config: TrainConfig,
    out: Path,
    *,
    recipe: dict[str, Any],
    validate: Callable[[nn.Module], float] | None = None,
    judge_start: Callable[[], float] | None = None,
    unreadable: SkippedImages | None = None,
    world: World = ALONE,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Train `task.model` in place; in the end it holds the best weights by `validate`, else the last.

    `batches` are those from a position on, of a training that so many processes began.
    `judge_start` judges what the epochs must beat: where none did, `Outcome.kept_start`, the caller should
    keep that. `unreadable` fills with validation images that could not be read.

    `out/checkpoints` gets `last` and `best`, `out/log.jsonl` a line per logged step and validation. With
    `resume` a run that was killed goes on from `last`, in the middle of an epoch, and on the CPU ends with
    the same bits as one that was not; `recipe` and images must be the same. Other processes than began it
    share the images of the same updates; what each draws or samples from its own differs (dropout, mixing,
    gradients of learned ranges). Before the first checkpoint it begins anew.
    Processes that torchrun started again go on in any case.
    TrainingError when training diverged, naming step, layer and the last checkpoint;
    TrainingStopped, with everything saved, after SIGINT or SIGTERM.
    """
    keep_freed_memory()
    run = _Run(task, config, out, recipe, world, resume, reporter or Silent(), unreadable or SkippedImages())
    source = batches(Position(run.progress.epoch, run.progress.batch), run.progress.processes)
    started = time.perf_counter()
    try:
        with asked_to_stop() as stop:
            run.train(source, validate, judge_start, stop)
    except torch.OutOfMemoryError as error:
        raise run.too_large() from error
    finally:
        source.close()
    from_leader(0.0)  # which has then saved everything
    progress, seconds = run.progress, time.perf_counter() - started
    load_weights(out / CHECKPOINTS / (LAST if progress.best == progress.start else BEST), task.model)
    task.before_step(progress.step, progress.step)
    return Outcome(
        progress.step,
        progress.best,
        progress.start,
        seconds,
        tuple(progress.skipped),
        progress.processes,
    )


class _Run:
    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        out: Path,
        recipe: dict[str, Any],
        world: World,
        resume: bool,
        reporter: Reporter,
        unreadable: SkippedImages,
    ) -> None:
        self.task, self.config, self.world, self.reporter = task, config, world, reporter
        self.unreadable = unreadable
        self.folder = out / CHECKPOINTS
        self.folder.mkdir(parents=True, exist_ok=True)
        task.model.to(world.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if resume or world.restarted:
            resume = bool(from_leader((self.folder / LAST).exists()))
        if world.leads:
            for name in (f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}", LOG):
                remove_leftovers(out / name)
        saved = read_state(self.folder / LAST, recipe) if resume else None
        self.progress = saved.progress if saved else Progress(processes=world.size)
        self.shared = config.batch_size * self.progress.processes
        self.optimizer = make_optimizer(
            task.model, config.optimizer, effective_batch=self.shared * config.accumulate
        )
        self.ema = Ema(task.model, config.ema.decay) if config.ema.enabled else None
        self.trained = Trained(task.model, self.optimizer, self.ema, self.progress, recipe)
        if saved:
            saved.restore(self.trained)
        self.resumed = saved is not None
        self.out = out
        self.log: JsonLines | None = None
        self.board: TensorBoard | None = None
        self.loss = loss_of(task, world, compiled=config.compile)

    def train(
        self,
        source: Batches,
        validate: Callable[[nn.Module], float] | None,
        judge_start: Callable[[], float] | None,
        stop: Stop,
    ) -> None:
        """Every epoch that is left."""
        config, progress = self.config, self.progress
        self.check(source)
        if self.world.leads:
            self.open_logs()
        updates = source.steps_per_epoch // config.accumulate
        total = updates * config.epochs
        saved_at = time.perf_counter()
        if progress.step == 0:
            if judge_start and progress.start is None:
                progress.best = progress.start = self.judged(judge_start)
            self.save(LAST)
        while progress.epoch < config.epochs:
            self.task.model.train()
            for _ in range(progress.step - progress.epoch * updates, updates):
                self.update(source, updates, total)
                signal = self.signal(stop)
                if signal or time.perf_counter() - saved_at > config.save_every_s:
                    self.save(LAST)
                    saved_at = time.perf_counter()
                if signal:
                    raise TrainingStopped(f"stopped at step {progress.step}; --resume goes on", signal)
            for _ in range(source.steps_per_epoch - updates * config.accumulate):
                next(source)  # too few for an update
            self.note_skipped(names_of_all(progress.skipped))
            epoch = progress.epoch + 1
            due = epoch % config.validate_every == 0 or epoch == config.epochs
            if validate and due:
                self.save(LAST)  # validation may take long
            progress.epoch, progress.batch = epoch, 0
            if validate and due:
                self.validate(validate, total)
            self.save(LAST)
            saved_at = time.perf_counter()

    def check(self, source: Batches) -> None:
        """TrainingError where an epoch is too short, or not what it was when the run was begun."""
        progress, batches = self.progress, source.steps_per_epoch
        if batches < self.config.accumulate:
            raise TrainingError(
                f"accumulate: {self.config.accumulate} batches make an update, but an epoch has {batches}; "
                "lower accumulate or batch_size"
            )
        if progress.batches not in (0, batches):
            raise TrainingError(
                f"{self.folder / LAST}: was begun with {progress.batches} batches an epoch, now there are "
                f"{batches}; resume with the same images"
            )
        progress.batches = batches

    def open_logs(self) -> None:
        """Where a run goes on they lose what came after its checkpoint."""
        step = self.progress.step
        self.log = JsonLines(self.out / LOG, step if self.resumed else None, self.progress.batch == 0)
        self.board = TensorBoard(self.out / EVENTS, step) if self.config.tensorboard else None

    def too_large(self) -> TrainingError:
        """What to do where the GPU's memory is too small."""
        advice = (
            "resume with more processes"
            if self.resumed
            else "lower --batch-size, and give --accumulate to keep the images of an update"
        )
        images = self.shared // self.world.size
        return TrainingError(
            f"batch_size: {images} images in a step are more than the GPU's memory holds; {advice}"
        )

    def signal(self, stop: Stop) -> int:
        """Signal that any of the processes was stopped with, 0 for none: all stop after the same step."""
        own = stop.signal or 0
        return own if self.world.size == 1 else int(largest(torch.tensor(own, device=self.world.device)))

    def update(self, source: Batches, updates: int, total: int) -> None:
        """One step of the optimizer."""
        config, progress = self.config, self.progress
        started = time.perf_counter()
        factor = rate_factor(config.schedule, progress.step, steps_per_epoch=updates, epochs=config.epochs)
        set_rate(self.optimizer, factor)
        seed_step(config.seed, self.world.rank, progress.step)
        try:
            self.task.before_step(progress.step, total)
            tally = self.gradients(source)
            self.optimizer.step()
            self.task.after_step()
        except Diverged as error:
            raise TrainingError(
                f"step {progress.step}: {error}; {begin_again(self.folder / LAST)}"
            ) from error
        progress.step += 1
        progress.batch += config.accumulate
        self.note_skipped([str(path) for path in source.skipped.paths])
        if self.ema is not None:
            self.ema.update(progress.step)
        record = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": tally.loss,
            "accuracy": tally.right / tally.known if tally.known else None,
            "rate": self.optimizer.param_groups[0]["lr"],
            "images_per_s": tally.seen / (time.perf_counter() - started),
        }
        if progress.step % config.log_every == 0 or progress.step == 1:
            self.write(record)
        self.reporter.step(record, total)

    def note_skipped(self, paths: list[str]) -> None:
        """Remember and log images that could not be read."""
        progress = self.progress
        for path in paths:
            if path not in progress.skipped:
                progress.skipped.append(path)
                if self.log is not None:
                    self.log.write({"step": progress.step, "epoch": progress.epoch, "skipped": path})

    def gradients(self, source: Batches) -> Tally:
        """Those of the batches of one update, clipped; Diverged in all processes where one's are bad."""
        config, model = self.config, self.task.model
        self.optimizer.zero_grad()
        tally = Tally()
        suspect: Tensor | None = None
        for images, labels in self.tensors(source):
            if math.isfinite(tally.loss):
                suspect = images
            with torch.autocast(self.world.device, torch.bfloat16, enabled=config.precision == "bf16"):
                mean, logits = self.loss(images, labels)
            share = mean / config.accumulate
            with reaching_others():
                share.backward()  # type: ignore[no-untyped-call]
            tally.add(share, logits, labels)
        assert suspect is not None
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        tally = tally.of_all(self.world.size, self.world.device)
        if not math.isfinite(tally.loss) or not math.isfinite(norm.item()):
            where = not_finite(model, suspect)
            raise Diverged(f"loss is {tally.loss:g}, gradient {norm.item():g}; {where}")
        note_loss(self.progress, tally)
        if config.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), config.max_grad_norm, norm)
        return tally

    def tensors(self, source: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one update, on the device."""
        for _ in range(self.config.accumulate):
            batch = next(source)
            # NHWC in memory is channels_last.
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            labels = batch.labels if len(batch.labels) else [NO_CLASS] * len(batch)
            device = self.world.device
            yield images.to(device, non_blocking=True), torch.as_tensor(labels, device=device)

    def validate(self, validate: Callable[[nn.Module], float], total: int) -> None:
        """Judge what would be kept."""
        progress, model = self.progress, self.task.model
        model.eval()
        with nullcontext() if self.ema is None else self.ema.applied():
            self.task.before_step(progress.step, total)
            result = self.judged(lambda: validate(model))
        if progress.best is None or result > progress.best:
            progress.best = result
            self.save(BEST)

    def judged(self, judge: Callable[[], float]) -> float:
        """What the first process finds, logged; the others wait."""
        with alone():
            own = judge() if self.world.leads else 0.0
        self.note_skipped([str(path) for path in self.unreadable.paths])
        result = from_leader(own)
        record = {"step": self.progress.step, "epoch": self.progress.epoch, "validation": result}
        self.write(record)
        self.reporter.validated(record)
        return result

    def write(self, record: dict[str, Any]) -> None:
        """Add to the logs."""
        if self.log is None:
            return
        self.log.write(record)
        if self.board is not None:
            self.board.write(record)

    def save(self, name: str) -> None:
        """Keep everything; the first process has all there is."""
        if self.world.leads:
            save_state(self.folder / name, self.trained)
