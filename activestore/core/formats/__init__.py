"""File formats: from metadata to a `Variable`."""
