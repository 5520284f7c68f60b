"""Reductions behind `.active`, for arrays, datasets, groups and weights."""
