"""Checkpoints and weights of the official implementations; nothing official is executed."""
