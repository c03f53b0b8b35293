"""Foreign formats: folders of images in, data sets for other programs out."""
