"""What must exist on a host: one file per kind of resource, each frozen data with an identity and XML both ways."""
