"""MobileNet architectures as rows of data. They know nothing of quantization."""
