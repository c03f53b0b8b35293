"""Image quality: feature extractors and distances between sets of slices, and the quality of annotations."""
