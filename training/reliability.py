"""Draw how far confidence can be believed: accuracy against confidence, a panel for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

FILE = "reliability.svg"
SIDE, GAP, COLUMNS = 180, 60, 3  # of a panel, between panels, in pixels; panels in a row
LARGEST = 10  # radius of the point of all rows, in pixels; areas are in proportion to rows

_TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" width="{{ width }}" \
height="{{ height }}" font-family="sans-serif" font-size="12" role="img" aria-label="Accuracy against confidence">
<rect width="100%" height="100%" fill="#fff"/>
{% for panel in panels %}
<g transform="translate({{ panel.x }} {{ panel.y }})">
<text y="-8" font-size="13">{{ panel.name }}</text>
<rect width="{{ side }}" height="{{ side }}" fill="none" stroke="#999"/>
<path d="M0 {{ side }}L{{ side }} 0" stroke="#999" stroke-dasharray="4 4"/>
{% for point in panel.points %}
<circle cx="{{ point.x }}" cy="{{ point.y }}" r="{{ point.r }}" fill="#1f6feb" fill-opacity="0.7">\
<title>{{ point.title }}</title></circle>
{% endfor %}
<text x="0" y="{{ side + 16 }}">0</text><text x="{{ side }}" y="{{ side + 16 }}" text-anchor="end">1</text>
<text x="{{ side / 2 }}" y="{{ side + 16 }}" text-anchor="middle">confidence</text>
<text x="-6" y="{{ side }}" text-anchor="end">0</text><text x="-6" y="12" text-anchor="end">1</text>
<text transform="translate(-8 {{ side / 2 }}) rotate(-90)" text-anchor="middle">accuracy</text>
</g>
{% endfor %}
</svg>
""")


def draw(report: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a reliability diagram as SVG: a point per bin of confidence, larger with more rows.

    Args:
        report: task -> results, from `training.report.validate`.
    """
    panels = []
    for i, (name, figures) in enumerate(report.items()):
        points = [
            {
                "x": round(of["confidence"] * SIDE, 1),
                "y": round((1 - of["accuracy"]) * SIDE, 1),
                "r": round(max(1.5, LARGEST * (of["rows"] / figures["count"]) ** 0.5), 1),
                "title": f"confidence {of['confidence']:.2f}, accuracy {of['accuracy']:.2f}, {of['rows']:,} rows",
            }
            for of in figures["reliability"]
        ]
        place = {"x": GAP / 2 + i % COLUMNS * (SIDE + GAP), "y": GAP / 2 + i // COLUMNS * (SIDE + GAP)}
        panels.append({"name": name, "points": points, **place})
    columns, rows = min(len(panels), COLUMNS), -(-len(panels) // COLUMNS)
    size = {"width": columns * (SIDE + GAP), "height": rows * (SIDE + GAP)}
    return _TEMPLATE.render(panels=panels, side=SIDE, **size) + "\n"
