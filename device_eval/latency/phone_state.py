"""What a phone says about itself: cores, heat, battery, room. Formats differ between Android's versions."""

import re
from dataclasses import dataclass

CPUFREQ = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
ZONES = "/sys/class/thermal/thermal_zone*"
READ_MAX_KHZ = f"for f in {CPUFREQ}/cpuinfo_max_freq; do echo $f $(cat $f); done"
READ_HEAT = (
    "dumpsys thermalservice; "
    f"for z in {ZONES}; do echo zone $(cat $z/type) $(cat $z/temp); done 2>/dev/null; "
    f"for f in {CPUFREQ}/scaling_max_freq; do echo $f $(cat $f); done 2>/dev/null"
)
READ_BATTERY = "dumpsys battery"

# PowerManager.THERMAL_STATUS_*.
_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_CPU = 0
# A phone may round what it allows to a step of its table.
_CAPPED = 0.97


@dataclass(frozen=True)
class Heat:
    """Android's thermal status (None before Android 10), the hottest CPU sensor, and frequency limits.

    `allowed_khz` is what each core may run at now.
    """

    status: int | None
    cpu_celsius: float | None
    allowed_khz: dict[int, int]

    def throttled(self, max_khz: dict[int, int], cores: tuple[int, ...]) -> str | None:
        """Why the cores are slower than they could be; None when they are not."""
        if self.status:
            name = _STATUSES[self.status] if self.status < len(_STATUSES) else "unknown"
            return f"thermal status {self.status} ({name})"
        for core in cores:
            allowed = self.allowed_khz.get(core, max_khz[core])
            if allowed < _CAPPED * max_khz[core]:
                return f"core {core} limited to {allowed // 1000} of {max_khz[core] // 1000} MHz"
        return None


@dataclass(frozen=True)
class Battery:
    """Charge in percent, temperature in degrees Celsius, and whether it is being charged."""

    percent: int | None
    celsius: float | None
    powered: bool


def parse_frequencies(text: str, kind: str = "cpuinfo_max_freq") -> dict[int, int]:
    """kHz of every core from lines "/sys/.../cpu7/cpufreq/cpuinfo_max_freq 2850000"."""
    return {int(core): int(khz) for core, khz in re.findall(rf"/cpu(\d+)/cpufreq/{kind} (\d+)", text)}


def fastest(max_khz: dict[int, int], count: int) -> tuple[int, ...]:
    """The `count` cores with the highest frequency; of equals those numbered last."""
    ranked = sorted(max_khz, key=lambda core: (max_khz[core], core), reverse=True)
    return tuple(sorted(ranked[:count]))


def parse_heat(text: str) -> Heat:
    """From the output of `READ_HEAT`."""
    status = re.search(r"Thermal Status: (\d+)", text)
    # What the sensors say now; the "Cached temperatures" before may be hours old.
    current = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    sensors = re.findall(r"mValue=(-?\d+(?:\.\d+)?), mType=(\d+)", current)
    celsius = [float(value) for value, kind in sensors if int(kind) == _CPU]
    zones = re.findall(r"^zone (\S*cpu\S*) (-?\d+)$", text, re.MULTILINE | re.IGNORECASE)
    celsius = celsius or [_degrees(int(value)) for _, value in zones]
    # A sensor that is switched off says 0 or a number beyond reason.
    sensible = [value for value in celsius if 0 < value < 150]
    allowed = parse_frequencies(text, "scaling_max_freq")
    return Heat(int(status[1]) if status else None, max(sensible, default=None), allowed)


def parse_battery(text: str) -> Battery:
    """From the output of `dumpsys battery`."""
    fields = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", text, re.MULTILINE))
    level, scale = _number(fields.get("level")), _number(fields.get("scale", "100"))
    tenths = _number(fields.get("temperature"))
    return Battery(
        round(100 * level / scale) if level is not None and scale else None,
        None if tenths is None else tenths / 10,
        any(fields.get(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless", "Dock")),
    )


def parse_free_bytes(text: str) -> int | None:
    """Available bytes from `df -k`; None when it prints no such table."""
    found = re.search(r"\d+\s+\d+\s+(\d+)\s+\d+%", text)
    return int(found[1]) * 1024 if found else None


def _number(text: str | None) -> float | None:
    """None for what some phone says instead of a number."""
    return float(text) if text is not None and re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def _degrees(value: int) -> float:
    """Kernels say thousandths, tenths or whole degrees."""
    return value / 1000 if abs(value) >= 10_000 else value / 10 if abs(value) >= 200 else float(value)
