"""Sources whose bytes lie in many objects: Zarr stores, and the files that Kerchunk references name."""
