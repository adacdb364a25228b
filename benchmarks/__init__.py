"""Speed and memory, as ratios within one run: `python -m benchmarks.ptq --help`, from the repository root."""
