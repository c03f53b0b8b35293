"""Is it a copy? Exact nearest neighbours, a calibrated verdict with its controls, the screen before release."""
