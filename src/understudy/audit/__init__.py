"""Is it a copy? Exact nearest neighbours, a calibrated verdict with its controls, and the screen of what may be released."""
