"""A figure's SVG made a part of a page: names of its own, and colours by the style sheet, so that it is dark at night."""

import re
import xml.etree.ElementTree as ET

from vitrail.studies.figures.style import GRID, INK, PAPER, SERIES, SOFT

_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "card"} | {c: f"series-{i}" for i, c in enumerate(SERIES)}
_DROPPED = ("metadata", "style")  # the style is one for all elements of the page
_FONT = re.compile(r"font-family:[^;]*;?")


def inline(svg: str, prefix: str, label: str) -> str:
    """The SVG element of a file that ``figures.svg`` made, for HTML.

    Args:
        svg: the file's text.
        prefix: begins every id, so that two figures on a page have none in common.
        label: what readers who do not see the picture are told.
    """
    root = ET.fromstring(svg)
    used = {name for e in root.iter() for value in e.attrib.values() for name in re.findall(r"#([\w.-]+)", value)}
    _adapt(root, prefix, used)
    del root.attrib["width"], root.attrib["height"], root.attrib["version"]
    root.attrib |= {"role": "img", "aria-label": label}
    return ET.tostring(root, encoding="unicode")


def _adapt(element: ET.Element, prefix: str, used: set[str]) -> None:
    element.tag = _local(element.tag)
    attributes = {_local(name): value for name, value in element.attrib.items()}
    own = attributes.pop("id", None)
    if own in used:
        attributes["id"] = f"{prefix}{own}"
    for reference in attributes.keys() & {"href", "clip-path"}:
        attributes[reference] = attributes[reference].replace("#", f"#{prefix}")
    if "style" in attributes:
        style = _FONT.sub("", attributes["style"])
        attributes["style"] = re.sub("#[0-9a-f]{6}", lambda found: _variable(found.group()), style).strip()
    if "d" in attributes:
        attributes["d"] = " ".join(attributes["d"].split())
    element.attrib = attributes
    for child in list(element):
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _adapt(child, prefix, used)
    if element.tag not in ("text", "tspan"):
        element.text = None
    element.tail = None


def _local(name: str) -> str:
    """Without its namespace: HTML knows SVG by itself."""
    return name.rpartition("}")[2]


def _variable(colour: str) -> str:
    return f"var(--{_VARIABLES[colour]})" if colour in _VARIABLES else colour
