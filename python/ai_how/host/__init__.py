"""One door to each part of the system: libvirt, routes, the machine's abilities, processes, files."""
