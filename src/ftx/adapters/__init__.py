"""Low-rank adapters that compute with the weight which the merge will write."""
