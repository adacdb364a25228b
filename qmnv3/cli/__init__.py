"""The `qmnv3` command. Each command is one module here; heavy imports live inside the command functions."""

import importlib
import io
import os
import signal
import sys
from functools import cache

import typer

from qmnv3 import __version__
from qmnv3.errors import QmnError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Quantize MobileNets to fully integer int8, export TFLite and ONNX, and measure the result.",
)


# One module per command; each defines `command`, registered under the name given here.
COMMANDS: dict[str, str] = {
    "quickstart": "qmnv3.cli.quickstart",
    "info": "qmnv3.cli.info",
    "train": "qmnv3.cli.train",
    "average": "qmnv3.cli.average",
    "ptq": "qmnv3.cli.ptq",
    "qat": "qmnv3.cli.qat",
    "sensitivity": "qmnv3.cli.sensitivity",
    "inspect": "qmnv3.cli.inspect",
    "export": "qmnv3.cli.export",
    "eval": "qmnv3.cli.eval",
    "bench": "qmnv3.cli.bench",
    "predict": "qmnv3.cli.predict",
    "lint": "qmnv3.cli.lint",
    "ablate": "qmnv3.cli.ablate",
    "check": "qmnv3.cli.check",
    "report": "qmnv3.cli.report",
}

# Commands with sub-commands; each module defines a typer `app`.
GROUPS: dict[str, str] = {"weights": "qmnv3.cli.weights"}


# Exit codes of commands that a signal ended, and what is said then.
INTERRUPTED = 130
_ENDED = {
    INTERRUPTED: "interrupted",
    128 + signal.SIGTERM: "terminated",
    128 + signal.SIGHUP: "its terminal was closed",
}


def _version(value: bool) -> None:
    if value:
        typer.echo(f"qmnv3 {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show version."),
) -> None:
    pass


def main() -> None:
    """Run the CLI; a QmnError, full disk or missing permission becomes one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name need not be Unicode, nor the terminal able to show all of it.
        sys.stdout.reconfigure(errors="backslashreplace")
    # An exit like any other: temporary files go, and what lies on a phone.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # nohup has a closed terminal ignored.
        if signal.getsignal(ending) != signal.SIG_IGN:
            signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    try:
        _register()
        app()
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except SystemExit as exit_:
        # Typer turns Ctrl-C into this exit without a word.
        if isinstance(exit_.code, int) and exit_.code in _ENDED:
            fail(_ENDED[exit_.code], exit_.code)
        raise
    except QmnError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        fail(f"{error.filename or 'output'}: {os.strerror(error.errno)}")


@cache
def _register() -> None:
    for name, module in COMMANDS.items():
        app.command(name)(importlib.import_module(module).command)
    for name, module in GROUPS.items():
        app.add_typer(importlib.import_module(module).app, name=name)


def fail(message: str, code: int = 2) -> None:
    """Print `message` as one line on stderr and exit; of several processes only the first to fail prints."""
    distributed = sys.modules.get("qmnv3.training.distributed")
    if distributed is None or distributed.first_to_fail():
        print("error:", " ".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)
