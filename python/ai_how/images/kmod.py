"""Chooses the kernel modules the guest needs, in the order in which they must be loaded.

`modules.dep` is only made when a kernel is installed, so dependencies are read from the modules themselves
(`depends=` in their `.modinfo`, see modinfo(8)). A module built into the kernel (`modules.builtin`) needs no loading.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping

from ai_how.errors import HostError
from ai_how.images.process import run

_DEPENDS = re.compile(rb"\x00depends=([^\x00]*)\x00")


def module_name(path: str) -> str:
    """The name the kernel uses: `kernel/net/virtio-net.ko.xz` is `virtio_net`."""
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def depends(module: bytes) -> tuple[str, ...]:
    """The modules that `module` (the content of a .ko file) needs loaded before itself."""
    found = _DEPENDS.search(module)
    names = found.group(1).decode().split(",") if found else []
    return tuple(name.replace("-", "_") for name in names if name)


def load_order(files: Mapping[str, bytes], wanted: Iterable[str]) -> tuple[tuple[str, bytes], ...]:
    """(name, content) of `wanted` and all they depend on, dependencies first, out of a kernel package's `files`.

    Raises HostError when a module is neither in the package nor built in.
    """
    modules = {module_name(path): path for path in files if ".ko" in path.rsplit("/", 1)[-1]}
    listed = b"\n".join(text for path, text in files.items() if path.endswith("/modules.builtin"))
    builtin = {module_name(line) for line in listed.decode().split()}
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in modules:
            raise HostError(
                f"the kernel package has no module {name}",
                why="it is neither among its modules nor built in",
                remedy="the micro image needs a kernel with virtio drivers, such as linux-image-cloud-amd64",
            )
        content = _uncompressed(modules[name], files[modules[name]])
        for dependency in depends(content):
            visit(dependency)
        order[name] = content

    for name in wanted:
        visit(name)
    return tuple(order.items())


def _uncompressed(path: str, content: bytes) -> bytes:
    """Not every kernel loads compressed modules, and the initramfs is compressed as a whole anyway."""
    if path.endswith(".xz"):
        return lzma.decompress(content)
    if path.endswith(".zst"):
        return run(["zstd", "-dcq"], data=content)
    return content
