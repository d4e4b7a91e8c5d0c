"""One file per kind of resource: how it is observed on a host, created, changed and removed."""
