"""The plots and pictures of the report."""
