"""The MobileNetV3 paper as data, one file per table; `released` is Google's, not the paper's."""
