"""The adb client, run as a program: choosing a phone, running commands on it, sending files to it."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from qmnv3.errors import DeviceError

INSTALL = "install Android's platform tools (Debian: apt install adb)"
ANSWER_S = 60.0

_STATES = {
    "unauthorized": "unlock the phone and allow USB debugging from this computer",
    "authorizing": "unlock the phone and allow USB debugging from this computer",
    "offline": "reconnect its cable, or run `adb reconnect`",
    "no permissions": "let your user access the USB device (udev rules)",
    "recovery": "start Android on it",
    "bootloader": "start Android on it",
    "sideload": "start Android on it",
}
# Older phones' adbd tells no exit code, and a cut connection looks like success: the shell says it is done.
_DONE = "qmnv3-exit-code:"


@dataclass(frozen=True)
class Answer:
    """What a command on the phone printed (both streams) and its exit code."""

    output: str
    code: int


@dataclass(frozen=True)
class Adb:
    """One phone, named by its serial number; `program` is the path of the adb client."""

    program: str
    serial: str

    def shell(self, command: str, timeout_s: float = ANSWER_S) -> Answer:
        """Run a line for the phone's shell; DeviceError when the phone is gone or does not answer in time."""
        line = f"{{ {command}; }} 2>&1; code=$?; echo; echo {_DONE}$code"
        done = self._run(["shell", line], command, timeout_s)
        output, mark, code = done.stdout.replace("\r\n", "\n").rpartition(_DONE)
        if not mark or not code.strip().isdigit():
            raise self._failed(command, done.stderr)
        return Answer(output.removesuffix("\n"), int(code))

    def push(self, source: Path, target: str, timeout_s: float = 600.0) -> None:
        """Copy a file to the phone; DeviceError when there is no room or the phone is gone."""
        done = self._run(["push", str(source.resolve()), target], f"push {source.name}", timeout_s)
        if done.returncode:
            raise self._failed(f"push {source.name}", done.stderr + done.stdout)

    def _run(self, arguments: list[str], what: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return _adb([self.program, "-s", self.serial, *arguments], timeout_s)
        except subprocess.TimeoutExpired:
            raise DeviceError(
                f"phone {self.serial} gave no answer to `{_short(what)}` in {timeout_s:.0f} s; "
                "unlock it or reconnect its cable"
            ) from None

    def _failed(self, what: str, printed: str) -> DeviceError:
        lines = [line.removeprefix("adb: ").removeprefix("error: ") for line in printed.splitlines() if line]
        telling = [line for line in lines if "failed" in line or "device " in line]
        said = (telling or lines or ["the connection broke"])[0].rstrip(".")
        advice = "reconnect its cable and run again"
        if "No space left" in said:
            advice = "free some room on it"
        for state in ("unauthorized", "offline"):
            if f"device {state}" in said:
                advice = _STATES[state]
        return DeviceError(f"phone {self.serial}: `{_short(what)}` failed ({said}); {advice}")


def connect(serial: str | None = None) -> Adb:
    """The phone called `serial`, or the only one there is; DeviceError says why there is none to use."""
    program = shutil.which("adb")
    if program is None:
        raise DeviceError(f"adb is not on PATH; {INSTALL}")
    states = _devices(program)
    listed = ", ".join(f"{name} ({state})" for name, state in states.items())
    if not states:
        raise DeviceError("no phone is connected; connect one with USB debugging on (`adb devices` shows it)")
    if serial is None and len(states) > 1:
        raise DeviceError(f"{len(states)} phones are connected: {listed}; name one by --device adb:SERIAL")
    chosen = serial or next(iter(states))
    if chosen not in states:
        raise DeviceError(f"no phone {chosen!r} is connected; connected: {listed}")
    if states[chosen] != "device":
        advice = _STATES.get(states[chosen], "reconnect its cable")
        raise DeviceError(f"phone {chosen} is {states[chosen]}; {advice}")
    return Adb(program, chosen)


def _devices(program: str) -> dict[str, str]:
    """Serial numbers and states as `adb devices` lists them."""
    try:
        done = _adb([program, "devices"], ANSWER_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"`adb devices` gave no answer in {ANSWER_S:.0f} s; run `adb kill-server`"
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise DeviceError(f"`adb devices` failed ({said}); run `adb kill-server` and try again")
    lines = [line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line]
    # "no permissions (user in plugdev group; ...)" and the like: the reason is long.
    return {serial: state.split(" (")[0].split(";")[0].strip() for serial, state in lines}


def _adb(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    # Without a closed stdin `adb shell` would eat what the user types.
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
