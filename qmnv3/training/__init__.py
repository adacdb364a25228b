"""Full-precision training."""
