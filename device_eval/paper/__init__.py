"""The tables of the MobileNetV3 paper as data."""
