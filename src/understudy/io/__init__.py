"""Files: whole or absent, found by one walk, read by one reader of NIfTI."""
