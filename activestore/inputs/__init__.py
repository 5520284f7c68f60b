"""What an `Active` is made of: which files, in which order, along which dimension."""
