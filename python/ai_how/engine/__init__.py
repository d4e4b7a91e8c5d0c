"""Carrying a plan out: observe, apply with a journal and an undo, verify, wait until the nodes are there."""
