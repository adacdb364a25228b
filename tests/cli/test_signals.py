"""SIGTERM ends a command as an error does: what it began is cleaned up."""

import subprocess
import sys

PROBE = """
import os, signal, time
import qmnv3.cli

def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        print("cleaned up")

qmnv3.cli._register, qmnv3.cli.app = (lambda: None), work
qmnv3.cli.main()
"""


def test_a_terminated_command_cleans_up() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned up\n", "error: terminated\n")
