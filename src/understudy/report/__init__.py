"""Tables, figures and the self-contained HTML page, from result files only."""
