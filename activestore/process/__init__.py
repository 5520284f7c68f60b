"""Limits and locks of this process, and what a forked child must not take over."""
