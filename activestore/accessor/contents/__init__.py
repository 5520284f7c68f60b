"""What a file holds, as xarray's engine opens it."""
