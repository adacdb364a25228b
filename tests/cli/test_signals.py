"""SIGTERM and a closed terminal end a command as an error does: what it began is cleaned up."""

import signal
import subprocess
import sys

import pytest

PROBE = """
import os, signal, time
import qmnv3.cli

def work():
    try:
        os.kill(os.getpid(), {number})
        time.sleep(60)
    finally:
        print("cleaned up")

qmnv3.cli._register, qmnv3.cli.app = (lambda: None), work
qmnv3.cli.main()
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGHUP, "its terminal was closed")]
)
def test_a_command_that_is_ended_cleans_up(number: signal.Signals, said: str) -> None:
    # Also where the tests themselves run under nohup.
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    probe = heard + PROBE.replace("{number}", str(int(number)))
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "cleaned up\n", f"error: {said}\n")


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
    probe = PROBE.replace("{number}", str(int(signal.SIGHUP))).replace("time.sleep(60)", "time.sleep(0.2)")
    command = ["nohup", sys.executable, "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "cleaned up\n")
