"""What a reduction returns."""
