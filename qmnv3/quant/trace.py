"""torch.fx tracing of a float model and recording of every tensor's shape."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qmnv3.errors import PrepareError


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A subclass of a torch.nn layer (Conv2d with TensorFlow padding) is as atomic as its parent.
        return isinstance(m, nn.Conv2d | nn.Linear) or super().is_leaf_module(m, module_qualified_name)


class _ShapeRecorder(fx.Interpreter):
    """Runs a traced network and keeps every tensor's shape; not ShapeProp, which prints tracebacks."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            raise RuntimeError(f"{n.target}: {_first_line(error)}") from error
        if isinstance(value, torch.Tensor):
            n.meta["shape"] = tuple(value.shape)
        return value


_OUT_OF_PLACE: dict[Any, Any] = {operator.iadd: operator.add, operator.imul: operator.mul}
_PASS_THROUGH = (nn.Dropout, nn.Dropout2d, nn.Identity)


def trace(model: nn.Module, resolution: int) -> fx.GraphModule:
    """Trace `model` in eval mode on one [1, 3, resolution, resolution] image; shapes go to node.meta.

    Dropout and Identity are removed, swish becomes a sigmoid and a product. Raises PrepareError for control
    flow that depends on data and for a model that cannot take such an image.
    """
    model = model.eval()
    try:
        graph = _Tracer().trace(model)
    # forward() is the user's code: it may raise anything.
    except Exception as error:
        raise PrepareError(
            f"{type(model).__name__}: torch.fx cannot trace it ({_first_line(error)}); "
            "remove control flow that depends on tensor values"
        ) from error
    module = fx.GraphModule(model, graph)
    _remove_pass_through(module)
    _remove_in_place(module)
    _split_swish(module)
    recorder = _ShapeRecorder(module)
    recorder.extra_traceback = False
    try:
        with torch.no_grad():
            recorder.run(torch.zeros(1, 3, resolution, resolution))
    except RuntimeError as error:
        raise PrepareError(
            f"{type(model).__name__}: cannot run a 3x{resolution}x{resolution} image ({error})"
        ) from error
    return module


def shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of the tensor a traced node produces, NCHW with batch 1."""
    recorded: tuple[int, ...] | None = node.meta.get("shape")
    if recorded is None:
        raise PrepareError(f"{node.name}: produces no single tensor; only tensor operations can be quantized")
    return recorded


def _remove_pass_through(module: fx.GraphModule) -> None:
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        if node.op == "call_module" and isinstance(modules[str(node.target)], _PASS_THROUGH):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _remove_in_place(module: fx.GraphModule) -> None:
    """Let every operation make a new tensor, so that a kept one stays what it was."""
    for submodule in module.modules():
        if getattr(submodule, "inplace", False):
            submodule.inplace = False  # type: ignore[assignment]
    for node in module.graph.nodes:
        node.target = _OUT_OF_PLACE.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    module.recompile()


def _split_swish(module: fx.GraphModule) -> None:
    """Make each SiLU x * sigmoid(x): runtimes have no such operation, and each tensor has its grid."""
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        called = modules[str(node.target)] if node.op == "call_module" else None
        if not isinstance(called, nn.SiLU) and node.target is not F.silu:
            continue
        (x,) = node.all_input_nodes
        with module.graph.inserting_before(node):
            sigmoid = module.graph.create_node(
                "call_function", torch.sigmoid, (x,), name=f"{node.name}_sigmoid"
            )
            swish = module.graph.create_node(
                "call_function", torch.mul, (x, sigmoid), name=f"{node.name}_swish"
            )
        node.replace_all_uses_with(swish)
        module.graph.erase_node(node)
    module.recompile()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
