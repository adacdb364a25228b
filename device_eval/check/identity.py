"""Which published network a model is. Counted, since a name tells neither width nor resolution."""

from dataclasses import dataclass
from pathlib import Path

from device_eval.check.published import NETWORKS, Network, parts
from device_eval.lint.readers import read_model
from device_eval.predictor import predict
from device_eval.predictor.costs import Cost, total
from device_eval.predictor.published import Network as Counted
from device_eval.predictor.published import network_costs
from qmnv3.errors import ModelFileError

RESOLUTION = 224
# Heads of 1024 or 1280 features and any number of classes stay within, other widths do not.
_NEAR_MACS = 0.05
# Other nonlinearities do not.
_NEAR_ACTIVATIONS = 0.1
# Padding in an operation of its own is no other network; a sigmoid costs as much as its hard one is counted.
_NOT_COUNTED, _NOT_PUBLISHED = "Pad", "Logistic"


@dataclass(frozen=True)
class Identity:
    """The network of Table 4 that a float model is, None if it is none; `size` for people."""

    network: Network | None
    size: str


def identify(quantized: Path, parent: Path) -> Identity:
    """What `parent` is by its input's side, multiply-adds and activations moved.

    Raises ModelFileError unless `quantized` is quantized, `parent` is float, and both are one network.
    """
    ours, floating = _Counts.of(quantized), _Counts.of(parent)
    if ours.precision != "int8":
        raise ModelFileError(f"{quantized}: is not quantized; give an 8-bit model, and its parent as --float")
    if floating.precision != "float32":
        raise ModelFileError(f"{parent}: is quantized; --float takes the float model it was made from")
    if ours.side != floating.side or not _near(ours.cost.macs, floating.cost.macs, _NEAR_MACS):
        raise ModelFileError(
            f"{parent}: has {floating.size}, {quantized} {ours.size}; give the float model it was made from"
        )
    found = [network for network in NETWORKS if floating.is_like(network)]
    return Identity(found[0] if found else None, floating.size)


def rows_in_words() -> str:
    """Table 4's networks and their sizes."""
    sizes = (f"{network} {_millions(_published(network))}" for network in NETWORKS)
    return f"{', '.join(sizes)}, at {RESOLUTION} pixels"


@dataclass(frozen=True)
class _Counts:
    precision: str
    side: int
    cost: Cost
    kinds: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> "_Counts":
        model = read_model(path)
        prediction = predict(model)
        cost = total(part for kind, part in prediction.by_kind.items() if kind != _NOT_COUNTED)
        side = max((n for name in model.inputs for n in model.tensors[name].shape), default=0)
        return cls(prediction.precision, side, cost, frozenset(prediction.by_kind))

    @property
    def size(self) -> str:
        sigmoids = ", and sigmoids" if _NOT_PUBLISHED in self.kinds else ""
        return f"{_millions(self.cost)} at {self.side} pixels{sigmoids}"

    def is_like(self, network: Network) -> bool:
        published = _published(network)
        return (
            self.side == RESOLUTION
            and _near(self.cost.macs, published.macs, _NEAR_MACS)
            and _near(self.cost.activations, published.activations, _NEAR_ACTIVATIONS)
            and _NOT_PUBLISHED not in self.kinds
        )


def _published(network: Network) -> Cost:
    return network_costs()[Counted(*parts(network))]


def _millions(cost: Cost) -> str:
    return f"{cost.macs / 1e6:.3g} million multiply-adds and {cost.activations / 1e6:.3g} activations moved"


def _near(value: int, other: int, share: float) -> bool:
    return abs(value - other) <= share * other
