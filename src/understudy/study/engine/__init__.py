"""Planning and running jobs, on one machine or a cluster."""
