"""XML built and read as trees. Configuration values never meet text concatenation."""

from __future__ import annotations

from lxml import etree

from ai_how.resources.base import METADATA

Element = etree._Element

#: A parser for libvirt's own output: no network, no entities, no size surprises (networks of 10,000 hosts are large).
_PARSER = etree.XMLParser(
    resolve_entities=False, no_network=True, huge_tree=True, remove_blank_text=True, collect_ids=False
)

_MARK = f"{{{METADATA}}}cluster"


def child(parent: Element, tag: str, text: str | None = None, **attributes: str | int) -> Element:
    """Append <tag> with `attributes` to `parent` and return it."""
    made = etree.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})
    if text is not None:
        made.text = text
    return made


def root(tag: str, **attributes: str) -> Element:
    """A new document's root element."""
    return etree.Element(tag, attributes)


def parse(text: str) -> Element:
    """The root element of a document that libvirt wrote."""
    return etree.fromstring(text, _PARSER)


def render(element: Element) -> str:
    """The document as text, indented as libvirt indents."""
    return etree.tostring(element, encoding="unicode", pretty_print=True)


def attribute(parent: Element, path: str, name: str, default: str = "") -> str:
    """Attribute `name` of the first element at `path`, `default` where there is no such element or attribute."""
    found = parent.find(path)
    return default if found is None else found.get(name, default)


def mark(parent: Element, **facts: str) -> None:
    """Put ai-how's mark into the document's <metadata>."""
    metadata = child(parent, "metadata")
    etree.SubElement(metadata, _MARK, facts, nsmap={"ai-how": METADATA})


def read_mark(document: Element) -> dict[str, str]:
    """The facts of ai-how's mark, empty where there is none."""
    found = document.find(f"metadata/{_MARK}")
    return {} if found is None else {str(name): str(value) for name, value in found.attrib.items()}
