"""What the predictor's other features are counted from, against the paper's Table 2."""

from benchmarks.pixel_features import TRIED, count
from benchmarks.pixel_predictor import describe_network
from device_eval.predictor.published import Network


def test_small_counted_as_table_2_has_it() -> None:
    ops = count(describe_network(Network("small", resolution=96)))

    def amount(name: str, feature: str) -> float:
        return TRIED[name][feature](ops)

    # Eleven bottlenecks, eight of them of 5x5; additions where neither stride nor width changes, six times.
    assert amount("number of depthwise layers", "layers") == 11e6
    assert sum(op.kind == "DepthwiseConv" and op.kernel == 5 for op in ops) == 8
    assert sum(op.kind == "Add" for op in ops) == 6
    # The stem has 16 filters of 3x3 on three colours, on 48x48 pixels.
    stem = amount("MACs of the stem and of depthwise layers, each apart", "macs 0")
    assert stem == 48 * 48 * 16 * 27
    # Nine pairs of squeeze-and-excite layers and the two of the head, 576 -> 1280 -> 1000, with biases.
    excite = (
        (16, 8),
        (96, 24),
        (240, 64),
        (240, 64),
        (120, 32),
        (144, 40),
        (288, 72),
        (576, 144),
        (576, 144),
    )
    layers = sum(2 * wide * narrow + wide + narrow for wide, narrow in excite)
    head = 576 * 1280 + 1280 + 1280 * 1000 + 1000
    assert amount("constants of layers after pooling apart", "constants 0") == layers + head


def test_parts_of_a_feature_are_the_whole() -> None:
    ops = count(describe_network(Network("small", resolution=96)))
    for name, features in TRIED.items():
        for measure in ("macs", "activations", "constants"):
            parts = [amount(ops) for feature, amount in features.items() if feature.split()[0] == measure]
            whole = TRIED["the three used"][measure](ops)
            assert "h-swish moves" in name or sum(parts) == whole, (name, measure)
