"""A generator as a plug-in: draws slices from a normal distribution over principal components."""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class Principal:
    version = "1"  # raise it when the same settings would give other slices

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        components: int = Field(32, ge=1, description="principal components")

    @staticmethod
    def train(slices, config, folder, seed, device):
        joint = np.asarray(slices).reshape(len(slices), -1)  # [N, (C + annotation) * H * W] in [-1, 1]
        mean = joint.mean(axis=0)
        _, values, axes = np.linalg.svd(joint - mean, full_matrices=False)
        kept = min(config.components, len(values))
        spread = values[:kept] / np.sqrt(len(joint))
        np.savez(folder / "model.npz", mean=mean, axes=axes[:kept], spread=spread, shape=slices.shape[1:])

    def __init__(self, folder, device):
        self.model = np.load(folder / "model.npz")

    def sample(self, count, seed):
        mean, axes, spread, shape = (self.model[k] for k in ("mean", "axes", "spread", "shape"))
        drawn = np.random.default_rng(seed).standard_normal((count, len(spread))) * spread
        return np.clip(mean + drawn @ axes, -1, 1).reshape(count, *shape)
