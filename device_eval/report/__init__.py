"""The report: what RUN folders, model files and other commands' results say, as one page."""

from device_eval.report.build import build
from device_eval.report.evidence import Evidence, gather
from device_eval.report.html import to_html
from device_eval.report.markdown import to_markdown

__all__ = ["Evidence", "build", "gather", "to_html", "to_markdown"]
