"""The linter: what a quantized file itself proves about its accuracy and speed, before running it."""

from device_eval.lint.finding import SEVERITIES, Finding, Rule, Severity
from device_eval.lint.lint import Report, check, lint
from device_eval.lint.readers import read_model
from device_eval.lint.rules import RULES

__all__ = ["RULES", "SEVERITIES", "Finding", "Report", "Rule", "Severity", "check", "lint", "read_model"]
