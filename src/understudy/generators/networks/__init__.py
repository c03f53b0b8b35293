"""The five networks and their layers."""
