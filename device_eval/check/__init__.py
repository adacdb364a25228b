"""The paper's claims against what was measured here: a verdict for each."""

from device_eval.check.identity import Identity, identify, rows_in_words
from device_eval.check.published import NETWORKS, Network, Published, published
from device_eval.check.table4 import Row, accuracy_rows, latency_rows
from device_eval.check.verdict import Judgement, Verdict

__all__ = [
    "NETWORKS",
    "Identity",
    "Judgement",
    "Network",
    "Published",
    "Row",
    "Verdict",
    "accuracy_rows",
    "identify",
    "latency_rows",
    "published",
    "rows_in_words",
]
