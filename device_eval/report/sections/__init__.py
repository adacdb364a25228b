"""The report's sections, one module each: what it shows of the evidence, and its lines of the summary."""
