"""What each stage of a study does: one file a stage."""
