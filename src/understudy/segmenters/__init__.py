"""Segmentation networks: architecture, augmentation, training and prediction of whole volumes."""
