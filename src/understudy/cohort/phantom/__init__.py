"""Phantoms: simulated patients."""
