"""Slices from a normal distribution over principal components."""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Principal:
    version = "1"  # raise it when the same settings would give other slices

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        components: int = Field(32, ge=1, description="principal components")

    @staticmethod
    def train(slices, config, folder, seed, device):
        joint = np.asarray(slices).reshape(len(slices), -1)  # in [-1, 1]
        mean = joint.mean(axis=0)
        _, values, axes = np.linalg.svd(joint - mean, full_matrices=False)
        kept = min(config.components, len(values))
        learned = {"mean": mean, "axes": axes[:kept], "shape": slices.shape[1:]}
        np.savez(folder / "m.npz", spread=values[:kept] / len(joint) ** 0.5, **learned)

    def __init__(self, folder, device):
        self.m = np.load(folder / "m.npz")

    def sample(self, count, seed):
        rng, spread = np.random.default_rng(seed), self.m["spread"]
        drawn = rng.standard_normal((count, len(spread))) * spread
        made = np.clip(self.m["mean"] + drawn @ self.m["axes"], -1, 1)
        return made.reshape(count, *self.m["shape"])  # [count, C + annotation, H, W]
