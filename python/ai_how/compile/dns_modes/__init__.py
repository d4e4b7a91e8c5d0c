"""A DNS mode is a function from a cluster to its network: one file per mode."""
