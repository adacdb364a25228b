"""An adb server with phones behind it, speaking the wire protocol to the real adb client.

Source: Android's SERVICES.TXT and SYNC.TXT, and adb's shell_protocol.h. Commands for the phone run in
a real shell, on a copy of a phone's folders, with stand-ins for Android's own programs.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

RECORDINGS = Path(__file__).parent / "recordings"
UNAUTHORIZED = (
    "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.\nOtherwise check for a confirmation dialog on your device."
)
STDOUT, EXIT = 1, 3

# What taskset would start: it says how long each model takes, by the files in answers/.
TASKSET = """#!/bin/sh
echo "$@" >> "$PHONE/calls"
[ -x "$2" ] || { echo "taskset: exec $2: Permission denied"; exit 126; }
graph=${3#--graph=}
[ -f "$graph" ] || { echo "ERROR: Could not open '$graph'."; exit 1; }
answer="$PHONE/answers/$(basename "$graph")"
case "$*" in *use_xnnpack=true*) answer="$answer.xnnpack";; *) answer="$answer.builtin";; esac
[ -f "$answer.exit" ] && { cat "$answer"; exit $(cat "$answer.exit"); }
case "$*" in *enable_op_profiling=true*) cat "$PHONE/answers/profile"; exit;; esac
cat "$answer" >&2  # as INFO lines are
"""
PROGRAMS = {
    "dumpsys": 'cat "$PHONE/dumpsys/$1" 2>/dev/null || echo "Can\'t find service: $1"',
    "getprop": 'cat "$PHONE/props/$1"',
    "df": 'cat "$PHONE/df"',
    "pkill": 'echo "$@" >> "$PHONE/pkills"; exit 1',
}


@dataclass
class Phone:
    """One phone: its folders, and what goes wrong with it."""

    root: Path
    state: str = "device"
    shell_v2: bool = True
    full: bool = False
    unplug_at_call: int | None = None
    hang_at_call: int | None = None
    calls: int = 0
    hanging: threading.Event = field(default_factory=threading.Event)
    pushed: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in ("data/local/tmp", "bin", "dumpsys", "props", "answers"):
            (self.root / folder).mkdir(parents=True)
        for name, text in PROGRAMS.items():
            self._program(name, f"#!/bin/sh\n{text}\n")
        self._program("taskset", TASKSET)
        for name, text in (("model", "Pixel 2"), ("abilist", "arm64-v8a,armeabi-v7a,armeabi")):
            (self.root / "props" / f"ro.product.{'cpu.' * (name == 'abilist')}{name}").write_text(text + "\n")
        (self.root / "props/ro.build.version.release").write_text("11\n")
        (self.root / "dumpsys/battery").write_text((RECORDINGS / "battery_phone.txt").read_text())
        self.thermal_status(0)
        self.free_kib(1_000_000)
        for core in range(8):
            self.frequency(core, "cpuinfo_max_freq", 1_900_800 if core < 4 else 2_457_600)
            self.frequency(core, "scaling_max_freq", 1_900_800 if core < 4 else 2_457_600)

    def _program(self, name: str, text: str) -> None:
        (self.root / "bin" / name).write_text(text)
        (self.root / "bin" / name).chmod(0o755)

    def frequency(self, core: int, kind: str, khz: int) -> None:
        """What one core may run at."""
        folder = self.root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / kind).write_text(f"{khz}\n")

    def thermal_status(self, status: int) -> None:
        """Android's thermal status from now on."""
        text = (RECORDINGS / "thermal_tv.txt").read_text()
        (self.root / "dumpsys/thermalservice").write_text(text.replace("Status: 0", f"Status: {status}"))

    def free_kib(self, kib: int) -> None:
        """Room in /data."""
        table = f"Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/dm-9 52710728 1 {kib} 2% /data\n"
        (self.root / "df").write_text(table)

    def answers(self, name: str, text: str, code: int = 0) -> None:
        """What benchmark_model prints for "model_0.tflite.xnnpack", and its exit code."""
        (self.root / "answers" / name).write_text(text)
        if code:
            (self.root / "answers" / f"{name}.exit").write_text(str(code))

    def takes(self, name: str, us: int) -> None:
        """benchmark_model measures `us` microseconds."""
        self.answers(
            name, f"INFO: count=9 curr={us + 100} p5=1\nINFO: count=5 first=1 curr=1 avg={us} std=1\n"
        )

    def log(self, name: str) -> list[str]:
        """Lines of "calls" or "pkills", the phone's own paths in them."""
        file = self.root / name
        return file.read_text().replace(str(self.root), "").splitlines() if file.exists() else []

    def left(self) -> list[str]:
        """Names in /data/local/tmp."""
        return sorted(path.name for path in (self.root / "data/local/tmp").iterdir())

    def local(self, text: str) -> str:
        """A path or command line with the phone's folders replaced by the copies."""
        return text.replace("/data/local/tmp", f"{self.root}/data/local/tmp").replace(
            "/sys/", f"{self.root}/sys/"
        )

    def run(self, command: str) -> tuple[bytes, int]:
        """Output and exit code of a command line."""
        environment = {"PATH": f"{self.root}/bin:/usr/bin:/bin", "PHONE": str(self.root)}
        done = subprocess.run(
            ["/bin/sh", "-c", self.local(command)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd=self.root,
        )
        return done.stdout, done.returncode


@dataclass
class Server:
    """The adb server of some phones, by serial number."""

    phones: dict[str, Phone]
    port: int = 0

    def serve(self, connection: socket.socket) -> None:
        """Answer requests of one connection until it is closed."""
        phone: Phone | None = None
        with connection, suppress(ConnectionError):
            while request := _request(connection):
                if request.startswith("host"):
                    chosen = self._host(connection, request)
                    if chosen is None:
                        return
                    phone = chosen
                elif phone is not None:
                    _service(connection, phone, request)
                    return

    def _host(self, connection: socket.socket, request: str) -> Phone | None:
        """Answer a request to the server itself; the phone that following ones are for, if any."""
        if request == "host:version":
            _okay(connection, f"{41:04x}")
        elif request == "host:devices":
            _okay(connection, "".join(f"{serial}\t{phone.state}\n" for serial, phone in self.phones.items()))
        elif request.startswith("host:tport:serial:"):
            return self._transport(connection, request.removeprefix("host:tport:serial:"))
        elif request.endswith(":features"):
            serial = request.removeprefix("host-serial:").removesuffix(":features")
            phone = self._usable(connection, serial)
            if phone is not None:
                _okay(connection, "shell_v2,cmd" if phone.shell_v2 else "cmd")
        else:
            _fail(connection, f"unknown host service {request!r}")
        return None

    def _transport(self, connection: socket.socket, serial: str) -> Phone | None:
        phone = self._usable(connection, serial)
        if phone is not None:
            connection.sendall(b"OKAY" + (1).to_bytes(8, "little"))
        return phone

    def _usable(self, connection: socket.socket, serial: str) -> Phone | None:
        phone = self.phones.get(serial)
        if phone is not None and phone.state == "device":
            return phone
        if phone is None or phone.state == "gone":
            _fail(connection, f"device '{serial}' not found")
        elif phone.state == "unauthorized":
            _fail(connection, UNAUTHORIZED)
        else:
            _fail(connection, f"device {phone.state}")
        return None


@contextmanager
def serving(phones: dict[str, Phone]) -> Iterator[Server]:
    """Run a server; adb finds it by ANDROID_ADB_SERVER_PORT."""
    server = Server(phones)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.port = listening.getsockname()[1]

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=server.serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server
        # A blocked accept() outlives close() unless the socket is shut down first.
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def _service(connection: socket.socket, phone: Phone, request: str) -> None:
    if request == "sync:":
        connection.sendall(b"OKAY")
        _sync(connection, phone)
        return
    _, _, command = request.partition(":")
    if "taskset" in command:
        phone.calls += 1
        if phone.calls == phone.unplug_at_call:
            phone.state = "gone"
            connection.sendall(b"OKAY")
            _packet(connection, STDOUT, b"INFO: STARTING!\n")
            return
        if phone.calls == phone.hang_at_call:
            phone.hanging.set()
            while connection.recv(4096):  # until the client is gone
                pass
            return
    connection.sendall(b"OKAY")
    output, code = phone.run(command)
    if not request.startswith("shell,v2"):
        connection.sendall(output)
        return
    for start in range(0, len(output), 4096):
        _packet(connection, STDOUT, output[start : start + 4096])
    _packet(connection, EXIT, bytes([code]))


def _sync(connection: socket.socket, phone: Phone) -> None:
    """Receive files; the client asks first what is there."""
    content, target = b"", Path()
    while header := _exactly(connection, 8):
        name, size = header[:4], int.from_bytes(header[4:], "little")
        if name == b"STAT":
            _exactly(connection, size)
            connection.sendall(b"STAT" + bytes(12))
        elif name == b"SEND":
            path, _, mode = _exactly(connection, size).decode().rpartition(",")
            target, content = Path(phone.local(path)), b""
            assert int(mode) & 0o100000, mode  # a plain file
        elif name == b"DATA":
            content += _exactly(connection, size)
        elif name == b"DONE":
            reason = b"write failed: No space left on device" if phone.full else b""
            if not reason:
                target.write_bytes(content)
                phone.pushed[target.name] = content
            connection.sendall((b"FAIL" if reason else b"OKAY") + len(reason).to_bytes(4, "little") + reason)
        else:  # QUIT
            return


def _packet(connection: socket.socket, kind: int, payload: bytes) -> None:
    connection.sendall(bytes([kind]) + len(payload).to_bytes(4, "little") + payload)


def _request(connection: socket.socket) -> str:
    size = _exactly(connection, 4)
    return _exactly(connection, int(size, 16)).decode() if size else ""


def _exactly(connection: socket.socket, size: int) -> bytes:
    """`size` bytes, or none when the client has closed."""
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            return b""
        received += part
    return received


def _okay(connection: socket.socket, text: str) -> None:
    connection.sendall(b"OKAY" + f"{len(text):04x}{text}".encode())


def _fail(connection: socket.socket, text: str) -> None:
    connection.sendall(b"FAIL" + f"{len(text):04x}{text}".encode())


def adb_environment(server: Server) -> dict[str, str]:
    """What the adb client needs to find the server."""
    return {**os.environ, "ANDROID_ADB_SERVER_PORT": str(server.port)}
