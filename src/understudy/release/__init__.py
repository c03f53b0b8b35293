"""The shared package: a gate, the data in a layout of choice, its metadata, a scan, and what a recipient checks."""
