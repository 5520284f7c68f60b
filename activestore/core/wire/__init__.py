"""Tasks and partial results as they travel."""
