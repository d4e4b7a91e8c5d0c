"""The one shape of a provider: a module with these functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypeVar

from ai_how.host.libvirt import Libvirt
from ai_how.resources.base import Resource

R = TypeVar("R", bound=Resource)


class Provider(Protocol[R]):
    """What engine/ knows of a kind. Every function may be called again after being killed half-way."""

    def observe(self, libvirt: Libvirt, cluster: str) -> list[R]:
        """What the host has of `cluster`, and only what carries our mark."""

    def foreign(self, libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
        """Those of `names` (keys) that exist and are not ours, each with a word on whose they are."""

    def create(self, libvirt: Libvirt, want: R) -> None:
        """Make it, up to its wanted state. Nothing of its name is there, or a half of it that we made."""

    def change(self, libvirt: Libvirt, have: R, want: R) -> None:
        """Take it from `have` to `want`."""

    def remove(self, libvirt: Libvirt, have: R) -> None:
        """Make it and all that belongs to it disappear; no error where it is gone already."""
