"""Post-training calibration algorithms: streaming observers and the ptq pipeline."""
