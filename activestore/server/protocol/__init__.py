"""Requests and answers of `activestore serve`."""
