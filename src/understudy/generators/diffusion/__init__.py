"""Gaussian diffusion: the process and its samplers."""
