"""The study file, the plan made from it, and the jobs that carry it out."""
