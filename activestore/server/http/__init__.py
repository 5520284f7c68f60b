"""The HTTP side of `activestore serve`."""
