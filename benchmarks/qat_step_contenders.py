"""A training step of each contender; as a command, the peak memory of two of them.

`python -m benchmarks.qat_step_contenders NAME SETTING_JSON`
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibration.ptq import calibrate
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.qat.config import FormsConfig, QatConfig
from qmnv3.qat.model import QatModel
from qmnv3.training.memory import keep_freed_memory
from recipes import load_recipe

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What every contender trains on."""

    model: str
    batch: int
    resolution: int
    device: str


def float_contiguous(setting: Setting) -> Step:
    """The float model as it is built."""
    return _step(build_model(setting.model), *_data(setting), torch.contiguous_format)


def float_channels_last(setting: Setting) -> Step:
    """The float model in the memory order that convolutions want."""
    return _step(build_model(setting.model), *_data(setting), torch.channels_last)


def float_bf16(setting: Setting) -> Step:
    """The float model under bfloat16 autocast, a recipe's `precision: bf16`."""
    return _step(build_model(setting.model), *_data(setting), torch.channels_last, bf16=True)


def float_compiled(setting: Setting) -> Step:
    """The float model through torch.compile, a recipe's `compile: true`."""
    model = build_model(setting.model).to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.compile()
    return _step(model, *_data(setting), torch.channels_last)


def qmnv3(setting: Setting) -> Step:
    """Learned ranges, BatchNorm on the batch's statistics: the costliest phase of `qmnv3 qat`."""
    model = _qat_model(setting)
    return _step(model, *_data(setting), torch.channels_last, model.settle)


def qmnv3_frozen(setting: Setting) -> Step:
    """Its later phase, BatchNorm folded."""
    model = _qat_model(setting)
    model.freeze_batch_norm()
    return _step(model, *_data(setting), torch.channels_last, model.settle)


def qmnv3_bf16(setting: Setting) -> Step:
    """The costliest phase under bfloat16 autocast."""
    model = _qat_model(setting)
    return _step(model, *_data(setting), torch.channels_last, model.settle, bf16=True)


def torchao(setting: Setting) -> Step:
    """prepare_qat_pt2e with the quantizer for x86."""
    from torchao.quantization.pt2e import move_exported_model_to_train
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    images, labels = _data(setting)
    program = torch.export.export(build_model(setting.model).to(setting.device).train(), (images,))
    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = prepare_qat_pt2e(program.module(), quantizer)
    move_exported_model_to_train(prepared)
    return _step(prepared, images, labels, torch.channels_last, exported=True)


CONTENDERS: dict[str, Callable[[Setting], Step]] = {
    "float_contiguous": float_contiguous,
    "float": float_channels_last,
    "float_bf16": float_bf16,
    "float_compiled": float_compiled,
    "qmnv3": qmnv3,
    "qmnv3_frozen": qmnv3_frozen,
    "qmnv3_bf16": qmnv3_bf16,
    "torchao": torchao,
}


def _data(setting: Setting) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch, 3, setting.resolution, setting.resolution)
    images = torch.rand(shape, generator=generator) * 2 - 1
    labels = torch.randint(0, 1000, (setting.batch,), generator=generator)
    return images.to(setting.device), labels.to(setting.device)


def _qat_model(setting: Setting) -> QatModel:
    images, _ = _data(Setting(setting.model, 4, setting.resolution, "cpu"))
    batch = images.permute(0, 2, 3, 1).contiguous().numpy()
    spec = Preprocessing(setting.resolution, max(256, setting.resolution), (0.5,) * 3, (0.5,) * 3)
    # As the recipes begin: equalized, which the steps of h-swish pay for.
    config = load_recipe("v3l_qat", QatConfig).calibration.model_copy(update={"images": 4})
    prepared = calibrate(build_model(setting.model), spec, lambda: iter([batch]), config).model
    model = QatModel(prepared, FormsConfig())
    model.quantize(True)
    return model


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    order: torch.memory_format,
    after: Callable[[], None] = lambda: None,
    exported: bool = False,
    bf16: bool = False,
) -> Step:
    model.to(images.device).to(memory_format=order)  # type: ignore[call-overload]
    if not exported:  # an exported model refuses train()
        model.train()
    images = images.contiguous(memory_format=order)
    # Random weights have gradients of 1e5; what a step costs does not depend on the rate.
    optimizer = torch.optim.SGD(model.parameters(), 1e-9, momentum=0.9)

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after()

    return step


def _peak_mib(name: str, setting: Setting) -> float:
    step = CONTENDERS[name](setting)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(), step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status_kib("VmRSS")
    step(), step()
    return (_status_kib("VmHWM") - before) / 2**10


def _status_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    keep_freed_memory()
    print(_peak_mib(sys.argv[1], Setting(**json.loads(sys.argv[2]))))
