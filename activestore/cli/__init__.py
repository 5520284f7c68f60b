"""The command `activestore`."""
