"""The study file: its sections, as validated data."""
