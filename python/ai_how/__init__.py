"""ai-how: one configuration becomes running virtual HPC clusters on libvirt/KVM.

The path every command walks is config → spec → resources → plan → steps → verified; `docs/architecture.md` is its
map. Importing this package imports nothing else.
"""

__version__ = "0.1.0"
