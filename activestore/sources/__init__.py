"""Sources of bytes: local files, HTTP, S3, fsspec, object stores."""
