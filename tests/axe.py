"""axe-core, which finds what screen readers and keyboards cannot use."""

from __future__ import annotations

from typing import Any

from inference.artifacts.npm import Package, fetch_package

AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ("package/axe.min.js",),
)
IMPACTS = ("critical", "serious", "moderate")


def findings(page: Any) -> list[str]:
    """Return the critical, serious and moderate findings on an open page: the rule, and the first elements."""
    page.evaluate(fetch_package(AXE)["axe.min.js"].decode())  # not a script element, which a page may refuse
    violations = page.evaluate("() => axe.run({ resultTypes: ['violations'] }).then(results => results.violations)")
    return [
        f"{one['id']} ({one['impact']}): " + "; ".join(node["html"][:150] for node in one["nodes"][:3])
        for one in violations
        if one["impact"] in IMPACTS
    ]
