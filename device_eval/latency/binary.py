"""Which processors a program was built for, read from its ELF header."""

from pathlib import Path

from qmnv3.errors import DeviceError

# e_machine of the ELF specification, and Android's names for what runs it.
_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}


def android_abi(program: Path) -> str:
    """Android's name ("arm64-v8a") of what `program` needs; DeviceError when it is no such program."""
    try:
        with program.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise DeviceError(
            f"{program}: {error.strerror}; give the path of TFLite's benchmark_model"
        ) from error
    machine = int.from_bytes(header[18:20], "little")
    if header[:4] != b"\x7fELF" or machine not in _MACHINES:
        raise DeviceError(
            f"{program}: not a program for Android (no ELF header); give TFLite's benchmark_model"
        )
    return _MACHINES[machine]


def check_abi(program: Path, supported: list[str], phone: str) -> None:
    """DeviceError unless the phone runs what `program` was built for."""
    needed = android_abi(program)
    if needed not in supported:
        raise DeviceError(
            f"{program}: built for {needed}, but phone {phone} runs {', '.join(supported)}; "
            "give the benchmark_model built for it"
        )
