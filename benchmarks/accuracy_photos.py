"""Preprocesses the calibration photos once for all peers: the same ones that `qmnv3 ptq` draws.

`python -m benchmarks.accuracy_photos RUN CALIB IMAGES SEED OUT.npy`
"""

import sys
from pathlib import Path

import numpy as np

from qmnv3.data import find_images, load_batches, sample
from qmnv3.files import atomic_file
from qmnv3.runs import FLOAT32, load_run_graph

BATCH = 20


def main(run: Path, calib: Path, images: int, seed: int, out: Path) -> None:
    """Write float32 [N, H, W, 3], prepared as the RUN's model wants them."""
    preprocessing = load_run_graph(run, FLOAT32).metadata.preprocessing
    folder = find_images(calib, classes=False)
    chosen = sample(folder, images, seed)
    parts = [batch.images for batch in load_batches(folder, preprocessing, BATCH, indices=chosen)]
    with atomic_file(out) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.concatenate(parts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
