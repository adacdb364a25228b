"""Checkpoints and users' own networks, through ptq and info."""

import os
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from cli_command import Cli, assert_refused, untouched
from safetensors.torch import save_file

from qmnv3.models.network import build_model

NAN = float("nan")


@pytest.fixture
def ptq(cli: Cli, tmp_path: Path, photos: Path) -> Cli:
    """`qmnv3 ptq` with `--model M` and options; nothing may be left, whatever happens."""

    def call(model: str, *options: object) -> object:
        with untouched(tmp_path):
            return cli(
                "ptq", "--model", model, "--calib", photos, "--out", tmp_path / "RUN", "--images", 2, *options
            )

    return call


def small_state() -> dict[str, torch.Tensor]:
    return build_model("small", width=0.35, num_classes=10).state_dict()


def test_another_architecture_names_key_and_shapes(ptq: Cli, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_file(small_state(), path)
    wrong = ptq("large", "--weights", path)
    assert_refused(wrong, f"{path}: features.0.0.weight is [8, 3, 3, 3], model large needs [16, 3, 3, 3]")
    assert_refused(wrong, "fits model small at width 0.35")
    assert_refused(ptq("v2", "--weights", path), "features.0.0.weight", "needs [32, 3, 3, 3]")
    mine = ptq("user_nets:tiny", "--weights", path)
    assert_refused(mine, "stem.0.weight is missing, model user_nets:tiny needs [8, 3, 3, 3]")


class _Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.trace}'",)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors"])
@pytest.mark.parametrize("kind", ["pickle 0", "pickle 2", "pickle 5", "torch"])
def test_pickle_that_runs_code_is_refused_and_did_not_run(
    ptq: Cli, tmp_path: Path, kind: str, suffix: str
) -> None:
    path, trace = tmp_path / f"bomb.{suffix}", tmp_path / "it ran"
    bomb = {"features.0.0.weight": _Bomb(trace)}
    if kind == "torch":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb, int(kind[-1])))
    text = "refused, unpickling it would run"
    if suffix == "safetensors" or kind == "pickle 0":
        text = "not a readable"
    assert_refused(ptq("small", "--weights", path), str(path), text)
    assert not trace.exists()
    if kind == "torch":
        torch.load(BytesIO(path.read_bytes()), weights_only=False)
    else:
        pickle.loads(path.read_bytes())  # noqa: S301
    assert trace.exists(), "the bomb was a dud"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("content", ["missing", "empty", "garbage", "truncated", "short", "folder"])
def test_damaged_checkpoint(ptq: Cli, tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"w.{suffix}"
    if content == "truncated":
        (save_file if suffix == "safetensors" else torch.save)(small_state(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "folder":
        path.mkdir()
    elif content != "missing":
        path.write_bytes({"empty": b"", "garbage": b"no checkpoint at all", "short": b"junk"}[content])
    wanted = "no such checkpoint file" if content in ("missing", "folder") else "not a readable"
    assert_refused(ptq("small", "--weights", path), f"{path}: {wanted}")


@pytest.mark.parametrize("value", [[1, 2], {}, torch.ones(3), {"epoch": 3}])
def test_torch_file_without_tensors(ptq: Cli, tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    assert_refused(ptq("small", "--weights", tmp_path / "w.pth"), "w.pth: holds no")


def test_nan_in_a_checkpoint_names_the_tensor(ptq: Cli, tmp_path: Path) -> None:
    state = small_state()
    state["features.3.block.0.0.weight"][0] = NAN
    torch.save(state, tmp_path / "w.pth")
    done = ptq("small", "--weights", tmp_path / "w.pth")
    assert_refused(done, "w.pth: features.3.block.0.0.weight holds NaN or infinity")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("std", "0.5,0.5", "std='0.5,0.5' cannot be read"),
        ("std", "0,0.5,0.5", "std"),
        ("mean", "nan,0.5,0.5", "must be finite"),
        ("resolution", "big", "resolution='big' cannot be read"),
        ("resolution", "-3", "resolution=-3"),
        ("width", "0", "width=0.0 must be above 0"),
        ("interpolation", "magic", "interpolation='magic'"),
        ("padding", "odd", "padding='odd' is not one of"),
        ("activations", "{", "activations='{' cannot be read"),
    ],
)
def test_metadata_that_makes_no_sense(ptq: Cli, tmp_path: Path, key: str, value: str, text: str) -> None:
    save_file(small_state(), tmp_path / "w.safetensors", {key: value})
    assert_refused(ptq("small", "--weights", tmp_path / "w.safetensors"), text)


def test_nan_weights_of_a_users_model_name_the_layer(ptq: Cli) -> None:
    assert_refused(ptq("user_nets:nan_weights"), "project.0.weight", "NaN or infinity")


def test_activations_that_overflow_name_the_layer(ptq: Cli) -> None:
    assert_refused(ptq("user_nets:overflowing"), "expand.0: NaN or infinity in the activations")


def test_logits_whose_square_overflows_are_quantized(cli: Cli, tmp_path: Path, photos: Path) -> None:
    given = ("--model", "user_nets:huge_logits", "--calib", photos, "--images", 2)
    done = cli("ptq", *given, "--out", tmp_path / "RUN")
    assert done.code == 0 and all(line.startswith("warning: ") for line in done.stderr.splitlines()), done
    assert cli("inspect", tmp_path / "RUN").code == 0


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("gelu_module", "_1: GELU 1 cannot be quantized; use one of Conv2d"),
        ("cat_function", "cat: cat cannot be quantized"),
        ("negation", "neg: neg cannot be quantized"),
        ("max_pool", "max_pool2d: max_pool2d cannot be quantized"),
        ("scaled", "mul: mul needs two tensors"),
        ("grouped", "1: groups=2 with 4 to 4 channels"),
        ("called_twice", "0: is called twice"),
        ("branching", "Sequential: torch.fx cannot trace it"),
        ("four_channel_input", "cannot run a 3x224x224 image (0: Given groups=1"),
        ("returns_a_map", "0: model returns a 222x222 map"),
        ("half_precision", "stem.0.weight: weight is torch.float16 on cpu"),
        ("forward_raises", "_Raises: torch.fx cannot trace it (no such luck)"),
    ],
)
def test_network_that_cannot_be_quantized_names_the_node(ptq: Cli, function: str, text: str) -> None:
    assert_refused(ptq(f"user_nets:{function}"), text)


@pytest.mark.parametrize("command", ["ptq", "info"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("user_nets:raises", "calling raises() failed: OSError: no such luck"),
        ("user_nets:exits", "calling exits() failed: SystemExit: 0"),
        ("user_nets:returns_a_number", "returned int; return an nn.Module"),
        ("user_nets:NOT_A_FUNCTION", "'user_nets' has no function 'NOT_A_FUNCTION'"),
        ("user_nets:gone", "'user_nets' has no function 'gone'"),
        ("no_such_nets:tiny", "No module named 'no_such_nets'"),
        ("user_nets.deeper:tiny", "user_nets.deeper"),
        ("user_nets:", "write it as package.module:function"),
        ("path/to/user_nets.py:tiny", "write it as package.module:function"),
    ],
)
def test_users_function_that_gives_no_network(
    cli: Cli, ptq: Cli, tmp_path: Path, command: str, name: str, text: str
) -> None:
    assert_refused(ptq(name) if command == "ptq" else cli("info", "--model", name), name, text)


@pytest.mark.parametrize("command", ["ptq", "info"])
@pytest.mark.parametrize(
    ("name", "nearest"), [("smal", "small"), ("mobilenet_v3_lage", "mobilenet_v3_large"), ("V2", "v2")]
)
def test_mistyped_model_name(cli: Cli, ptq: Cli, command: str, name: str, nearest: str) -> None:
    done = ptq(name) if command == "ptq" else cli("info", "--model", name)
    assert_refused(done, f"unknown model {name!r}", f"did you mean {nearest!r}?")


@pytest.mark.parametrize("width", ["0", "-1", "nan", "9"])
def test_width_out_of_range(cli: Cli, width: str) -> None:
    assert_refused(cli("info", "--width", width), f"width={float(width)} must be above 0 and at most 8")


def test_drop_background_of_a_users_model(ptq: Cli) -> None:
    assert_refused(ptq("user_nets:tiny", "--drop-background"), "for built-in models only")


def test_unknown_release(cli: Cli) -> None:
    assert_refused(cli("weights", "fetch", "large"), "'large'", "large-imagenet1k-v2")
