"""Seed images on a host: small ISO 9660 files in a cluster's pool, made here and uploaded through libvirt."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping

from ai_how.host.libvirt import Libvirt
from ai_how.providers import pool as pools
from ai_how.providers.volume import delete_file, list_files
from ai_how.resources import xml
from ai_how.resources.names import pool_name
from ai_how.resources.seed import SUFFIX, Seed, SeedContent

#: A seed whose upload has not ended; never wanted, so one that was left behind is removed by the next plan.
PART = f"{SUFFIX}.part"


def observe(libvirt: Libvirt, cluster: str) -> list[Seed]:
    """The seeds in the cluster's pool, and the parts of such; their names tell their content."""
    pool = pool_name(cluster)
    return [Seed(pool, handle.name()) for suffix in (SUFFIX, PART) for handle in list_files(libvirt, pool, suffix)]


def foreign(libvirt: Libvirt, names: Collection[str]) -> Mapping[str, str]:
    """None: what is in our pool is ours."""
    return {}


def create(libvirt: Libvirt, want: Seed) -> None:
    """Make the image, upload it beside its place, and let libvirtd copy it there: killed half-way, we leave no seed
    that looks whole and is not.
    """
    if want.content is None:  # only ever observed, so there is nothing to make
        return
    image = make_image(want.content)
    part = want.name.removesuffix(SUFFIX) + PART
    pool = pools.get(libvirt, want.pool)
    delete_file(libvirt, want.pool, part)
    with libvirt.doing(f"cannot upload the seed {want.name}"):
        volume = pool.createXML(_volume(part, len(image)))
        stream = libvirt.connection.newStream()
        volume.upload(stream, 0, len(image))
        stream.sendAll(lambda _stream, count, source: source.read(count), io.BytesIO(image))
        stream.finish()
        pool.createXMLFrom(_volume(want.name, len(image)), volume)
        volume.delete()


def _volume(name: str, size: int) -> str:
    document = xml.root("volume", type="file")
    xml.child(document, "name", name)
    xml.child(document, "capacity", str(size), unit="bytes")
    target = xml.child(document, "target")
    xml.child(target, "format", type="raw")
    xml.child(xml.child(target, "permissions"), "mode", "0600")
    return xml.render(document)


def change(libvirt: Libvirt, have: Seed, want: Seed) -> None:
    """Never needed: a seed with other content has another name."""


def remove(libvirt: Libvirt, have: Seed) -> None:
    """Delete the file."""
    delete_file(libvirt, have.pool, have.name)


def make_image(content: SeedContent) -> bytes:
    """An ISO 9660 image with label `cidata` (Joliet and Rock Ridge), as NoCloud wants it."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in (("meta-data", content.meta_data), ("user-data", content.user_data)):
        data = text.encode()
        iso.add_fp(
            io.BytesIO(data),
            len(data),
            f"/{name.replace('-', '_').upper()}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    written = io.BytesIO()
    iso.write_fp(written)
    iso.close()
    return written.getvalue()
