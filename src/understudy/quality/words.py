"""What metrics are called, and what they mean, for people."""

from __future__ import annotations

LABELS = {
    "frechet_distance": "Frechet distance",
    "frechet_distance_infinity": "Frechet distance, n → ∞",
    "kernel_distance": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "inception_score": "Inception score",
}
