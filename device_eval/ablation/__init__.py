"""What was measured of an ablation's networks, in one table and one plot, the paper's figures beside."""

from device_eval.ablation.claims import claims
from device_eval.ablation.plot import write_plot
from device_eval.ablation.rows import Row, rows_of
from device_eval.ablation.table import TEXT_COLUMNS, notes_of, table_of, to_markdown

__all__ = ["TEXT_COLUMNS", "Row", "claims", "notes_of", "rows_of", "table_of", "to_markdown", "write_plot"]
