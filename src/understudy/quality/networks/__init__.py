"""The networks whose features are compared, in plain torch."""
