"""Places that cannot be written, full disks, interruption, readers that hang up: nothing half-done stays."""

import errno
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_command import ENVIRONMENT, Cli, Finished, assert_refused, spawn, untouched

# The first file of either format is larger.
FILE_BYTES = 1024
ROOT = os.geteuid() == 0

Ptq = Callable[..., Finished]


@pytest.fixture
def ptq(cli: Cli, photos: Path, weights: Path) -> Ptq:
    """`qmnv3 ptq` into the folder given."""
    given = ("--model", "user_nets:tiny", "--weights", weights, "--calib", photos, "--images", 2)
    return lambda out, *options: cli("ptq", *given, "--out", out, *options)


@pytest.mark.parametrize("content", ["folder", "file"])
def test_out_that_holds_something_else(ptq: Ptq, tmp_path: Path, photos: Path, content: str) -> None:
    mine = shutil.copytree(photos, tmp_path / "mine")
    out = mine if content == "folder" else mine / "cat" / "0.png"
    with untouched(tmp_path):
        assert_refused(ptq(out), f"{out}: exists and is not a RUN folder; choose another --out")


def test_out_is_checked_before_the_work(cli: Cli, tmp_path: Path, photos: Path) -> None:
    given = ("--model", "user_nets:raises", "--calib", photos)
    assert_refused(cli("ptq", *given, "--out", photos), "exists and is not a RUN folder")


def test_out_below_a_file(ptq: Ptq, cli: Cli, tmp_path: Path, run: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    below = tmp_path / "notes.txt" / "deep" / "RUN"
    with untouched(tmp_path):
        assert_refused(ptq(below), f"{tmp_path / 'notes.txt'} is not a folder")
        text = f"{tmp_path / 'notes.txt'}: Not a directory"
        assert_refused(cli("export", "--int8", "--checkpoint", run, "--out", below), text)
        assert_refused(cli("export", "--int8", "--checkpoint", run, "--out", tmp_path / "notes.txt"), text)
        assert_refused(cli("inspect", run, "--json", below), text)
        assert_refused(cli("info", "--model", "small", "--json", below), text)


def test_out_that_is_the_current_folder(ptq: Ptq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with untouched(tmp_path):
        for out in (Path(), tmp_path / "here"):
            assert_refused(ptq(out), "cannot be replaced; name one inside it")


def test_json_that_is_a_folder(cli: Cli, tmp_path: Path, run: Path, exported: Path, photos: Path) -> None:
    model = exported / "model_int8.tflite"
    with untouched(tmp_path):
        for command in (
            ("inspect", run),
            ("info", "--model", "small"),
            ("eval", model, "--data", photos),
            ("bench", model, "--runs", 1),
        ):
            assert_refused(cli(*command, "--json", tmp_path), f"{tmp_path}: Is a directory")


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_folder_without_permission(ptq: Ptq, cli: Cli, tmp_path: Path, run: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert_refused(ptq(tmp_path / "RUN"), f"no permission to write in {tmp_path}")
        exported = cli("export", "--int8", "--checkpoint", run, "--out", tmp_path)
        assert_refused(exported, f"{tmp_path}: Permission denied")
        assert_refused(cli("inspect", run, "--json", tmp_path / "r.json"), "r.json: Permission denied")
    finally:
        tmp_path.chmod(0o755)


def test_folder_the_system_refuses(
    ptq: Ptq, cli: Cli, tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder = tempfile.mkdtemp

    def refuse(*_: object, **options: object) -> str:
        raise PermissionError(errno.EACCES, "refused", str(options["dir"]))

    def refuse_beside_output(*given: str | None, **options: object) -> str:
        return refuse(**options) if "dir" in options else make_folder(*given)

    monkeypatch.setattr("tempfile.mkdtemp", refuse_beside_output)
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with untouched(tmp_path):
        assert_refused(ptq(tmp_path / "new" / "RUN"), f"{tmp_path / 'new' / 'RUN'}: Permission denied")
        exported = cli("export", "--int8", "--checkpoint", run, "--out", tmp_path / "new")
        assert_refused(exported, f"{tmp_path / 'new'}: Permission denied")
        assert_refused(cli("inspect", run, "--json", tmp_path / "r.json"), "r.json: Permission denied")


@contextmanager
def small_files() -> Iterator[None]:
    """Let every write beyond `FILE_BYTES` of a file fail with EFBIG, as a full disk fails with ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN, "reaching the limit would kill the process"
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_writes_that_fail_leave_nothing(ptq: Ptq, cli: Cli, tmp_path: Path, run: Path) -> None:
    old, new, out = shutil.copytree(run, tmp_path / "old"), tmp_path / "a" / "new", tmp_path / "out"
    (tmp_path / "r.json").write_text("the old report")
    with untouched(tmp_path), small_files():
        assert_refused(ptq(new), f"{new}: File too large")
        assert_refused(ptq(old), f"{old}: File too large")
        done = cli("export", "--int8", "--checkpoint", run, "--out", out)
        assert_refused(done, f"{out}: File too large")
        assert_refused(cli("inspect", run, "--json", tmp_path / "r.json"), "r.json: File too large")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 16 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_full_disk(ptq: Ptq, cli: Cli, small_disk: Path, run: Path, exported: Path) -> None:
    room = sum(path.stat().st_size for path in exported.iterdir())
    assert room > 16 * 1024, "everything fits on the small disk"
    with untouched(small_disk):
        assert_refused(ptq(small_disk / "RUN"), f"{small_disk / 'RUN'}: No space left on device")
        done = cli("export", "--int8", "--checkpoint", run, "--out", small_disk)
        assert_refused(done, f"{small_disk}: No space left on device")
    report = small_disk / "r.json"
    report.write_text("the old report")
    (small_disk / "filler").write_bytes(bytes(12 * 1024))
    with untouched(small_disk):
        assert_refused(cli("inspect", run, "--json", report), f"{report}: No space left on device")


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_swap_keeps_the_old_run(
    ptq: Ptq, tmp_path: Path, run: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, replace, calls = shutil.copytree(run, tmp_path / "old"), Path.replace, []

    def sometimes(self: Path, target: Path) -> Path:
        if self.is_dir():
            calls.append(target)
            if len(calls) == failing:
                raise OSError(errno.EIO, "the disk is dying", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    with untouched(tmp_path):
        assert_refused(ptq(old), f"{old}: Input/output error")


def test_link_to_a_run_is_followed(ptq: Ptq, tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "real")
    (tmp_path / "real" / "run.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    assert ptq(tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "run.json").read_text() != "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_json_to_a_pipe(cli: Cli, tmp_path: Path, run: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert cli("inspect", run, "--json", pipe).code == 0
    assert pipe.is_fifo() and b'"layers": [' in os.read(reading, 2**16)
    os.close(reading)


@pytest.mark.parametrize("command", [("inspect", "RUN"), ("ptq", "--help")])
def test_reader_that_hangs_up(run: Path, command: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [str(run) if word == "RUN" else word for word in command]
    done = subprocess.run(
        [sys.executable, "-m", "qmnv3", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    os.close(writing)
    assert done.returncode == 1 and done.stderr == ""


def test_export_is_complete_though_nobody_reads(tmp_path: Path, run: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "qmnv3", "export", "--int8", "--checkpoint", run, "--out", tmp_path]
    subprocess.run(command, stdout=writing, env=ENVIRONMENT)
    os.close(writing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_int8.onnx", "model_int8.tflite"]


def test_terminal_without_unicode(run: Path) -> None:
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = spawn("inspect", run, env=environment)
    assert done.code == 0 and done.stderr == "" and done.stdout.isascii()


def test_ctrl_c_while_calibrating(tmp_path: Path, photos: Path, weights: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for index in range(3000):
        os.link(photos / "cat" / "0.png", many / f"{index}.png")
    (tmp_path / "slow.yaml").write_text("images: 3000\nbatch_size: 2\n")
    old = tmp_path / "new"
    given = ("--weights", weights, "--calib", many, "--out", old, "--recipe", tmp_path / "slow.yaml")
    with untouched(tmp_path):
        # On a terminal, because that shows the progress bar.
        code, shown = interrupt_on_terminal(rb"[1-9]\d*/3000", "ptq", "--model", "user_nets:tiny", *given)
    assert code == 130
    assert shown[-1] == "error: interrupted" and "Traceback" not in "".join(shown)


def interrupt_on_terminal(sign: bytes, *arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of a command that got SIGINT once its stderr matched `sign`."""
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "qmnv3", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env={**ENVIRONMENT, "TERM": "xterm"},
    )
    os.close(stderr)
    shown, interrupted = b"", False
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
            # The bar is drawn a few times a second and may pass over any one number.
            if not interrupted and re.search(sign, shown):
                process.send_signal(signal.SIGINT)
                interrupted = True
    except OSError as error:
        # Linux says EIO when the other end of a terminal has closed.
        assert error.errno == errno.EIO
    os.close(terminal)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    return process.wait(timeout=30), [line.strip() for line in text.splitlines() if line.strip()]
