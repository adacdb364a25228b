"""Image folders: discovery, decoding, preprocessing. No torch."""
