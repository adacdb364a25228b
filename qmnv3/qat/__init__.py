"""Quantization-aware training: a prepared model made trainable, its schedule, and the way back."""
