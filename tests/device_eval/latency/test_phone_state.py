"""What phones say about themselves: published and hand-written outputs of Android's tools."""

from pathlib import Path

import pytest

from device_eval.latency.phone_state import (
    Battery,
    Heat,
    fastest,
    parse_battery,
    parse_free_bytes,
    parse_frequencies,
    parse_heat,
)

RECORDINGS = Path(__file__).parent / "recordings"
# Pixel 2: four small cores, four big ones.
PIXEL2 = {**dict.fromkeys(range(4), 1_900_800), **dict.fromkeys(range(4, 8), 2_457_600)}


def _frequencies(kind: str, values: dict[int, int]) -> str:
    return "".join(f"/sys/devices/system/cpu/cpu{c}/cpufreq/{kind} {khz}\n" for c, khz in values.items())


def test_the_fastest_core_is_found_whatever_its_number() -> None:
    assert parse_frequencies(_frequencies("cpuinfo_max_freq", PIXEL2)) == PIXEL2
    assert fastest(PIXEL2, 1) == (7,)
    assert fastest(PIXEL2, 5) == (3, 4, 5, 6, 7)
    # Some phones number the big cores first, and ten cores have two digits.
    assert fastest({0: 2_800_000, 4: 1_800_000, 10: 1_700_000}, 1) == (0,)


def test_current_sensors_not_cached_ones() -> None:
    heat = parse_heat((RECORDINGS / "thermal_tv.txt").read_text(encoding="utf-8"))
    assert heat == Heat(0, 66.5, {})


@pytest.mark.parametrize(("raw", "celsius"), [("41300", 41.3), ("413", 41.3), ("41", 41.0), ("0", None)])
def test_before_android_10_there_are_thermal_zones(raw: str, celsius: float | None) -> None:
    text = f"Can't find service: thermalservice\nzone battery 30000\nzone cpu-1-2-usr {raw}\n"
    assert parse_heat(text) == Heat(None, celsius, {})


def test_throttling_shows_in_the_status_or_in_the_clock() -> None:
    allowed = _frequencies("scaling_max_freq", {**PIXEL2, 7: 1_500_000})
    heat = parse_heat(allowed)
    assert heat.throttled(PIXEL2, (7,)) == "core 7 limited to 1500 of 2457 MHz"
    assert heat.throttled(PIXEL2, (6,)) is None
    assert Heat(2, None, {}).throttled(PIXEL2, (7,)) == "thermal status 2 (moderate)"
    assert Heat(0, 80.0, {}).throttled(PIXEL2, (7,)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("level: unknown\n scale: 100\n temperature: 300\n", Battery(None, 30.0, False)),
        ("level: 50\n scale: 0\n temperature: -\n", Battery(None, None, False)),
        ("level: 50\n temperature: 25.5\n", Battery(50, 2.55, False)),
    ],
)
def test_a_battery_that_says_no_number(text: str, expected: Battery) -> None:
    assert parse_battery(text) == expected


@pytest.mark.parametrize("value", ["-", "NaN", "."])
def test_a_sensor_that_says_no_number(value: str) -> None:
    sensor = f"Temperature{{mValue={value}, mType=0, mName=CPU0}}"
    text = f"Thermal Status: 0\nCurrent temperatures from HAL:\n {sensor}\nCurrent cooling devices"
    assert parse_heat(text) == Heat(0, None, {})


def test_battery() -> None:
    text = (RECORDINGS / "battery_phone.txt").read_text(encoding="utf-8")
    assert parse_battery(text) == Battery(84, 32.6, True)
    assert parse_battery("Can't find service: battery\n") == Battery(None, None, False)


@pytest.mark.parametrize(
    ("text", "kib"),
    [
        (
            "Filesystem     1K-blocks     Used Available Use% Mounted on\n"
            "/dev/block/dm-9 115249236 30316516 84801648  27% /data\n",
            84801648,
        ),
        (
            "Filesystem           1K-blocks      Used Available Use% Mounted on\n"
            "/dev/block/platform/soc/1d84000.ufshc/by-name/userdata\n"
            "                      52710728  12345 99 100% /data\n",
            99,
        ),
        ("Filesystem  Size Used Free Blksize\n/data  27G  19G  8G  4096\n", None),
    ],
)
def test_free_room(text: str, kib: int | None) -> None:
    assert parse_free_bytes(text) == (None if kib is None else kib * 1024)
