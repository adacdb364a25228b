"""Published outputs of benchmark_model; recordings/README.md names the sources. Numbers are read off them."""

from pathlib import Path

import pytest

from device_eval.latency.benchmark_output import Run, complaint, parse

RECORDINGS = Path(__file__).parent / "recordings"


def _text(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


def _parsed(name: str) -> Run:
    run = parse(_text(name))
    assert run is not None
    return run


@pytest.mark.parametrize(
    ("name", "count", "mean_us", "memory_mb"),
    [
        ("tflite_2019.txt", 15, 66767.6, None),
        ("tflite_2019_profile.txt", 626, 1592.71, None),
        ("tflite_2022_profile.txt", 50, 947350, None),
        ("tflite_2024.txt", 50, 105784, 14.8164),
        ("tflite_2024_profile.txt", 64, 15517.6, 34.8281),
        ("litert_2026.txt", 10, 7.4302e6, 6391.74),
    ],
)
def test_statistics_are_those_after_warm_up(
    name: str, count: int, mean_us: float, memory_mb: float | None
) -> None:
    run = _parsed(name)
    assert (run.count, run.mean_us, run.memory_mb) == (count, mean_us, memory_mb)


def test_a_phone_may_end_its_lines_like_a_terminal() -> None:
    assert parse(_text("tflite_2024.txt").replace("\n", "\r\n")) == _parsed("tflite_2024.txt")


def test_operations_with_start_column() -> None:
    found = [(o.kind, o.name, o.mean_us) for o in _parsed("tflite_2019_profile.txt").operations]
    assert found == [("DEPTHWISE_CONV_2D", "Relu6", 719.0), ("FULLY_CONNECTED", "BiasAdd_1", 849.0)]


def test_operations_are_those_of_the_runs_not_of_initialization() -> None:
    operations = _parsed("tflite_2022_profile.txt").operations
    assert [o.mean_us for o in operations] == pytest.approx([6441, 5078, 10688])
    assert operations[0].kind == "TfLiteNnapiDelegate" and operations[1].name == "tfl.quantize4:222"


def test_joined_operations_count_as_often_as_they_run() -> None:
    """13 calls of 0.051 ms are 4.317 % of a run of about 15.3 ms, as the table itself says."""
    joined = _parsed("tflite_2024_profile.txt").operations[2]
    assert joined.kind == "Convolution (NHWC, QC8) DWConv"
    assert joined.mean_us == pytest.approx(0.04317 * 203 / 0.01328, rel=0.02)
    assert [o.kind for o in _parsed("tflite_2024_profile.txt").operations][3:] == [
        "Add (ND, QS8)",
        "Convert (NC, QS8, F32)",
    ]


def test_peak_memory_is_preferred() -> None:
    """Format: tensorflow/lite/tools/benchmark/benchmark_model.cc, OnBenchmarkEnd."""
    more = "INFO: Overall peak memory footprint (MB) via periodic monitoring: 21.5\n"
    run = parse(_text("tflite_2024.txt") + more)
    assert run is not None and run.memory_mb == 21.5


@pytest.mark.parametrize("line", ["count=3 curr=600(all same)", "INFO: count=3 curr=600 p5=600 median=600"])
def test_equal_runs_print_no_mean(line: str) -> None:
    run = parse(f"count=1 curr=700\n{line}\n")
    assert run is not None and (run.count, run.mean_us) == (3, 600)


def test_flags_an_older_version_does_not_know() -> None:
    run = parse("Unconsumed cmdline flags: --use_xnnpack=false --min_secs=0\n" + _text("tflite_2019.txt"))
    assert run is not None and run.ignored_flags == {"use_xnnpack", "min_secs"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "STARTING!\n",
        "count=5 first=1 curr=1 min=1 max=1 avg=1 std=0\n",
        "count=9 curr=1\ncount=5 first=1 avg=-nan std=1\n",
        "count=9 curr=1\ncount=5\n",
    ],
)
def test_nothing_measured(text: str) -> None:
    assert parse(text) is None


def test_what_is_no_number_is_not_known() -> None:
    order = "============================== Run Order ==============================\n"
    for more in (
        "Peak memory:  unknown MB\n",
        order + "\t[node type]\t[first]\t[Name]\n\tCONV_2D\t0.1\t[x]:0\n\n",
        order + "\t[node type]\t[avg ms]\t[Name]\n\tCONV_2D\t.\t[x]:0\n\n",
    ):
        run = parse("count=9 curr=1\ncount=5 curr=3\n" + more)
        assert run is not None and (run.mean_us, run.memory_mb, run.operations) == (3.0, None, ())


def test_operations_of_a_table_without_their_calls_are_called_once() -> None:
    order = "============================== Run Order ==============================\n"
    table = order + "\t[node type]\t[avg ms]\t[Name]\n\tCONV_2D\t0.5\t[x]:0\n\n"
    run = parse("count=9 curr=1\ncount=5 curr=3\n" + table)
    assert run is not None and [(o.kind, o.mean_us) for o in run.operations] == [("CONV_2D", 500.0)]


def test_a_refusal_is_told_by_its_first_error() -> None:
    assert parse(_text("refusal.txt")) is None
    assert complaint(_text("refusal.txt")).startswith("Didn't find op for builtin opcode 'MUL' version '5'.")
    assert complaint("STARTING!\nAborted\n") == "Aborted"
    assert complaint("") == "it printed nothing"
