"""Volumes in: cohort layouts, checks, the built-in phantom, patient splits and slicing."""
