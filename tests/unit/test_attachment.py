"""The cards of running machines, as libvirt describes them and takes them back."""

from __future__ import annotations

from ai_how.providers.attachment import read_links
from ai_how.resources import xml

#: What libvirt 9.0 said of a running machine, with a card of its owner's in another program's bridge beside ours.
LIVE = """
<domain type='qemu' id='1'><name>tried-controller</name><devices>
  <interface type='network'>
    <mac address='52:54:00:bc:cb:f3'/>
    <source network='tried-network' portid='3d25eea6-3fbb-4aab-a688-a8ef10484a30' bridge='br-tried'/>
    <target dev='vnet1'/>
    <model type='virtio'/>
    <link state='down'/>
    <alias name='net0'/>
    <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
  </interface>
  <interface type='bridge'>
    <mac address='52:54:00:00:00:01'/><source bridge='docker0'/><target dev='vnet2'/>
  </interface>
</devices></domain>
"""


def test_cards_in_libvirts_networks_are_read_and_others_left_alone() -> None:
    (link,) = read_links(LIVE)
    assert (link.tap, link.network, link.bridge, link.on) == ("vnet1", "tried-network", "br-tried", False)
    assert read_links("<domain><devices/></domain>") == ()
    # As it is defined, without a tap: it does not run.
    assert read_links(LIVE.replace("<target dev='vnet1'/>", "")) == ()


def test_card_is_given_back_with_its_cable_and_network_and_nothing_else_changed() -> None:
    (link,) = read_links(LIVE)
    plugged = xml.parse(link.to_xml(on=True, network="around"))
    assert plugged.find("source").attrib == {"network": "around"}  # type: ignore[union-attr]
    assert [each.get("state") for each in plugged.findall("link")] == ["up"]
    own = xml.parse(link.to_xml(on=False))
    assert own.find("source").attrib == {"network": "tried-network"}  # type: ignore[union-attr]
    assert [each.get("state") for each in own.findall("link")] == ["down"]
    assert [each.tag for each in own if each.tag != "link"] == ["mac", "source", "target", "model", "alias", "address"]
