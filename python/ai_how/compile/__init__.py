"""From a cluster's spec to the resources that must exist on a host. Pure functions; one file per kind of thing."""
