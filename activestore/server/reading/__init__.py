"""Reading chunks for `activestore serve`."""
