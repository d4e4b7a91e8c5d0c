"""What the user wrote: a YAML file or a mapping, read into the one table of fields, with every problem in its place."""
