"""Fused kernels, each tested against its plain reference."""
