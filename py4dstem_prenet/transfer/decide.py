"""Decision on the quantities that are carried over from a standard, after the scan itself was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core import Decision, Ellipse, Flag, Transfer
from ..ellipse import compare_ellipses
from . import Plan, descan_of

# Chosen, not measured.
MAX_STRAIN_ELLIPSE = 0.01  # of a/b; largest difference of the ellipse of rings that uniform strain of a specimen causes
MAX_APERTURE_ELLIPSE = 0.02  # of a/b; largest difference of the direct beam's ellipse, if the standard's beam was used


def decided_transfer(plan: Plan, own: Ellipse | None, descan: Flag | None = None) -> Transfer:
    """Decide which quantities are carried over.

    Parameters
    ----------
    plan : Plan
        The quantities that can be carried over.
    own : Ellipse or None
        The ellipse measured in the scan.
    descan : Flag or None
        Flag returned by `fit_with_descan`.

    Returns
    -------
    Transfer
        The quantities that are carried over, and the reasons why the remaining ones are not.

    Notes
    -----
    The ellipse of the standard is tested against that of the scan by their covariances (chi square, one error in a
    thousand). If rings of the scan disagree by more than strain can explain, ellipse and pixel size are refused. If
    only the shape of the direct beam disagrees, they are refused only if the ellipse of the standard was also measured
    from its direct beam. In all other cases, disagreement is flagged.
    """
    standard, flags, quantities = plan.standard, list(plan.flags), list(plan.quantities)
    if "ellipse" in quantities:
        test = compare_ellipses(own, standard.ellipse)
        largest = np.inf
        if test.decisive:
            largest = MAX_STRAIN_ELLIPSE
        elif standard.round_beam:
            largest = MAX_APERTURE_ELLIPSE
        if not test.testable:
            flags.append(Flag("ellipse_untested"))
        elif test.agrees:
            flags.append(Flag("ellipse_agrees", test.numbers))
        elif test.difference > largest:
            refused = [name for name in ("ellipse", "pixel_size") if name in quantities]
            quantities = [name for name in quantities if name not in refused]
            flags.append(Flag("standard_contradicted", {**test.numbers, "quantities": refused}))
        else:
            flags.append(Flag("standard_differs" if test.decisive else "beam_shape_differs", test.numbers))
    if descan is not None:
        flags.append(descan)
        if descan.name == "descan_contradicted":
            quantities.remove("descan")
    if quantities:
        flags.insert(0, Flag("carried_over", {"quantities": quantities, "source": standard.name}))
    size = standard.pixel_size
    refused_before = any(flag.severity == "refusal" for flag in plan.flags)
    all_carried = len(plan.quantities) == len(quantities) and not refused_before
    sources = {} if own is None else own.sources
    return Transfer(
        source=standard.name,
        sha256=standard.sha256,
        binning=plan.binning,
        ellipse=replace(standard.ellipse, sources=sources) if "ellipse" in quantities else None,
        pixel_size=(size[0] * plan.binning, size[1]) if "pixel_size" in quantities else None,
        ratio=1.0 if standard.ellipse is None else standard.ellipse.a / standard.ellipse.b,
        rotation=standard.rotation if "rotation" in quantities else None,
        descan=descan_of(plan) if "descan" in quantities else None,
        facts=_facts(plan),
        decision=Decision(all_carried, tuple(flags)))


def _facts(plan):
    """Recorded facts of pixel size and rotation, with lengths in pixels and pixel sizes converted to this scan."""
    facts = {name: dict(values) for name, values in plan.standard.facts.items()}
    if plan.binning is not None:
        for name, power in (("sigma", 1), ("reference", -1)):
            if name in facts["pixel_size"]:
                facts["pixel_size"][name] *= plan.binning**power
    return facts
