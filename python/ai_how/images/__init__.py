"""The micro guest image: a small, quick machine for labs, demos and tests, built from Debian packages.

`micro.py` leads: it asks `packages` for the Debian packages, puts the guest's files together (`rootfs`, with `kmod`,
`elf` and `cpio`), writes a bootable disk (`disk`) and publishes it atomically from a cache keyed by content.
What runs inside the guest is in `guest/`.
"""

from ai_how.images.micro import BuiltImage, build_micro_image

__all__ = ["BuiltImage", "build_micro_image"]
