"""The cluster with nothing left open: every address, MAC, name and size. Frozen data, computed without the host."""
