"""The blinded reading study: real or synthetic, and which segmentation would rather be corrected (issue of Table 6)."""
