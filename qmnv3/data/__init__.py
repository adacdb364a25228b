"""Image folders: discovery, decoding, preprocessing. No torch."""

from qmnv3.data.classes import ClassIndex, class_index
from qmnv3.data.decode import decode
from qmnv3.data.folder import ImageFolder, find_images, sample
from qmnv3.data.loader import Batch, BatchIterator, SkippedImages, load_batches
from qmnv3.data.transform import preprocess

__all__ = [
    "Batch",
    "BatchIterator",
    "ClassIndex",
    "ImageFolder",
    "SkippedImages",
    "class_index",
    "decode",
    "find_images",
    "load_batches",
    "preprocess",
    "sample",
]
