"""What tests of the package, and of plugins for it, are made of."""
