"""A user's own network, named as `package.module:function`."""

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from qmnv3.errors import ModelError


def is_user_model(name: str) -> bool:
    """Whether `name` has the form `package.module:function`."""
    return ":" in name


def build_user_model(name: str, *, seed: int = 0) -> nn.Module:
    """Call `package.module:function` without arguments, seeded; the current directory can be imported from.

    ModelError, one line, when the name is malformed or the module or function is missing, fails, or
    returns no nn.Module.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise ModelError(f"model {name}: write it as package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(f"model {name}: {error}; run from the folder that holds {module_name!r}") from error
    # Whatever a user's module raises, SystemExit too, is that module's failure, told in one line.
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {name}: importing {module_name!r} failed: {_one_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"model {name}: {module_name!r} has no function {function_name!r}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = function()
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {name}: calling {function_name}() failed: {_one_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model {name}: {function_name}() returned {type(model).__name__}; return an nn.Module"
        )
    return model


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
