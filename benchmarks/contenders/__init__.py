"""One script per peer, run by the peer's own interpreter: SOURCE IMAGES OUT [VARIANT].

IMAGES is an .npy of preprocessed calibration images, float32 [N, H, W, 3]; the script writes the quantized
model to OUT. benchmarks.accuracy calls them; nothing here imports another script's packages.
"""
