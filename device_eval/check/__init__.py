"""The paper's claims against what was measured here: a verdict for each."""

from device_eval.check.published import NETWORKS, Network, Published, published
from device_eval.check.table4 import Row, accuracy_rows, latency_rows
from device_eval.check.verdict import Judgement, Verdict

__all__ = [
    "NETWORKS",
    "Judgement",
    "Network",
    "Published",
    "Row",
    "Verdict",
    "accuracy_rows",
    "latency_rows",
    "published",
]
