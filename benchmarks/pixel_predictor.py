"""The Pixel predictor's errors on what the paper published, as tables and as a plot.

    python -m benchmarks.pixel_predictor --plot docs/prediction.svg
    python -m benchmarks.pixel_predictor --networks   # count the paper's networks anew

The first prints the tables of docs/prediction.md. The second rewrites `device_eval/predictor/networks.json`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pixel_predictor_plot import write_plot
from device_eval.lint.description import Model
from device_eval.lint.readers.run import describe_graph
from device_eval.predictor import published
from device_eval.predictor.costs import Cost, op_cost, total
from device_eval.predictor.fit import FEATURES, Errors, Fit, fit, fitted
from device_eval.predictor.published import PIXELS, Network, Precision, placements
from qmnv3.files import write_json
from qmnv3.ir import Metadata
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert
from qmnv3.quant.prepare import prepare

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
ALTERNATIVES: tuple[tuple[str, ...], ...] = (
    ("macs",),
    ("macs", "constants"),
    ("macs", "activations"),
    ("macs", "activations", "constants"),
)


def describe_network(network: Network) -> Model:
    """A network's float graph, as `qmnv3.quant` converts it."""
    model = build_model(network.model, width=network.width, nonlinearity=network.nonlinearity).eval()
    side = network.resolution
    preprocessing = Preprocessing(side, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    graph = convert(prepare(model, preprocessing), Metadata(str(network), preprocessing), "float32")
    return describe_graph(graph, Path(str(network)))


def count_network(network: Network) -> Cost:
    """Costs of a network's float graph."""
    described = describe_network(network)
    return total(op_cost(described, op) for op in described.ops)


def write_networks(path: Path) -> None:
    """Count all of the paper's networks and write their costs."""
    entries = []
    for network in published.networks():
        cost = count_network(network)
        kept = {"macs": cost.macs, "activations": cost.activations, "constants": cost.constants}
        entries.append({"network": vars(network), "cost": kept})
    write_json(path, entries)


def errors_table() -> str:
    """Errors of networks that were left out, per phone and precision, in Markdown."""
    lines = [
        "| phone | precision | published | median % | worst % | interval holds | ms per million: "
        "MACs, activations, constants |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for precision in PRECISIONS:
        for pixel in PIXELS:
            found = fitted(pixel, precision)
            errors = found.leave_one_out
            coefficients = ", ".join(f"{found.ms_per_million[name]:.3f}" for name in FEATURES[precision])
            lines.append(
                f"| Pixel {pixel} | {precision} | {len(found.rows)} | {_percent(errors)} | "
                f"{100 * found.coverage:.0f} % | {coefficients} |"
            )
    return "\n".join(lines)


def families_table() -> str:
    """Errors on a Pixel 1 in float when a whole family is left out, in Markdown."""
    found = fitted(1, "float32")
    lines = ["| left out | networks | median % | worst % |", "| --- | ---: | ---: | ---: |"]
    for name, errors in found.families.items():
        lines.append(f"| all {name} | {len(errors.relative)} | {_percent(errors)} |")
    return "\n".join(lines)


def placements_table() -> str:
    """Table 5's latencies beside predictions that were not fitted to them, in Markdown."""
    found = fitted(1, "float32")
    lines = ["| V3-Large with | published ms | predicted ms | error % |", "| --- | ---: | ---: | ---: |"]
    for row in sorted(placements(), key=lambda row: row.ms):
        ms = found.ms(row.cost)
        width = "" if row.network.width == 1 else f", width {row.network.width:g}"
        lines.append(
            f"| {row.network.nonlinearity}{width} | {row.ms:g} | {ms:.1f} | {100 * (ms / row.ms - 1):+.1f} |"
        )
    return "\n".join(lines)


def alternatives_table() -> str:
    """Leave-one-out errors of other sets of features on a Pixel 1 in float, in Markdown."""
    lines = ["| features | median % | worst % | V2 left out, worst % |", "| --- | ---: | ---: | ---: |"]
    for features, found in _alternatives():
        v2 = found.families["V2"]
        lines.append(f"| {', '.join(features)} | {_percent(found.leave_one_out)} | {100 * v2.worst:.1f} |")
    return "\n".join(lines)


def tables() -> str:
    """Everything that docs/prediction.md shows of it."""
    return "\n\n".join((errors_table(), families_table(), placements_table(), alternatives_table()))


def _alternatives() -> Iterator[tuple[tuple[str, ...], Fit]]:
    rows = published.published(1, "float32")
    for features in ALTERNATIVES:
        yield features, fit(rows, features)


def _percent(errors: Errors) -> str:
    return f"{100 * errors.median:.1f} | {100 * errors.worst:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--networks", action="store_true", help="count the paper's networks anew")
    parser.add_argument("--plot", type=Path, help="write predicted against published latencies as SVG here")
    arguments = parser.parse_args()
    if arguments.networks:
        write_networks(Path(published.__file__).with_name(published.NETWORKS))
        published.network_costs.cache_clear()
    print(tables())
    if arguments.plot:
        write_plot(arguments.plot)


if __name__ == "__main__":
    main()
