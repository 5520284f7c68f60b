"""Codecs: from the stored bytes of a chunk to its numbers."""
