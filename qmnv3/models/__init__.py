"""Float networks: MobileNetV2 and V3 as rows of data, their weights and their costs."""
