"""The machine that the work runs on: devices, memory, threads, progress, checkpoints."""
