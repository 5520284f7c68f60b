"""The embedded server: Reductionist's protocol, and more for those who ask, over the same kernel as the local backend.

`activestore serve` runs it; what it needs is in the extra `server`.
"""
