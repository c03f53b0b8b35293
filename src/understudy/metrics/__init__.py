"""Overlap and surface distances of label volumes, the empty-mask policy, and the statistics over patients."""
