"""How near synthetic slices are to real ones: feature extractors, distances between sets, and their floors."""
