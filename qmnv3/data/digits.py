"""scikit-learn's handwritten digits as an image folder: real labelled images that need no download."""

from pathlib import Path

import numpy as np
from PIL import Image

from qmnv3.files import atomic_dir

CLASSES = 10


def write_digits(root: Path, side: int = 64, validation_percent: int = 20, seed: int = 0) -> None:
    """Write `root`/{train,val}/<digit>/<index>.png: 1,797 8x8 greyscale images scaled up to `side` pixels.

    The split is stratified and fixed by `seed`. Source: UCI Optical Recognition of Handwritten Digits,
    shipped with scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, validation = train_test_split(
        indices, test_size=validation_percent / 100, random_state=seed, stratify=digits.target
    )
    with atomic_dir(root) as temporary:
        for split, chosen in (("train", train), ("val", validation)):
            for index in chosen:
                folder = temporary / split / str(digits.target[index])
                folder.mkdir(parents=True, exist_ok=True)
                # Ink has values 0..16.
                pixels = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
                image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
                image.save(folder / f"{index:04d}.png")
