"""Plot the evidence for pixel size and rotation."""

from __future__ import annotations

import numpy as np

from . import LABEL_SIZE, SMALL_SIZE, TITLE_SIZE, add_color_bar, legend_below, name_scan_axes

LABEL_HEIGHTS = 0.98, 0.84  # fractions of the axis; a label too close to another one is placed lower
LABELED_PART = 0.28  # fraction of the axis; upper part that is left to labels
MIN_LABEL_DISTANCE = 0.09  # fraction of the axis; smallest distance between the labels of two rings
MAX_ARROWS = 16  # arrows; largest number along each side of the scan


def ring_radius_px(size, ring) -> float:
    """Return where a ring is expected, with the measured radial distortion.

    Parameters
    ----------
    size : PixelSize
        The pixel size.
    ring : Ring
        One of its rings.

    Returns
    -------
    float
        Radius along the geometric mean of the semi-axes of the ellipse, pixels.
    """
    radius = ring.g / size.value
    return radius * (1 + size.barrel * (radius / size.reference) ** 2) if size.barrel else radius


def show_standard(size, ax, title=""):
    """Plot the radial profile of a standard with its fit and the assigned rings.

    Parameters
    ----------
    size : PixelSize
        The measured pixel size.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, PixelSize
    >>> size = PixelSize(0.02, 1e-5, "Au", Decision(True, ()), "rings", ("1 1 1",), np.array([0.4247]), np.zeros(1),
    ...                  np.ones(1), profile=np.ones((3, 40)) * np.arange(40))
    >>> len(show_standard(size, Figure().add_subplot()).lines)
    3
    """
    radii, mean, fitted = size.profile
    scale = radii**2 if size.evidence == "rings" else np.ones_like(radii)  # rings fall off with the radius
    ax.plot(radii, mean * scale, color="0.7", lw=3, label="measured")
    ax.plot(radii, fitted * scale, color="tab:red", lw=1, label="fit")
    low, high = ax.get_ylim()
    ax.set_ylim(low, low + (high - low) / (1 - LABELED_PART))
    last = [-np.inf] * len(LABEL_HEIGHTS)
    for ring in size.rings if len(radii) else ():
        radius = ring_radius_px(size, ring)
        if radii[0] <= radius <= radii[-1]:
            ax.axvline(radius, color="tab:blue", lw=0.6, alpha=1.0 if np.isfinite(ring.error) else 0.3)
            # Labels do not overlap, and name only rings that were found.
            free = [k for k, other in enumerate(last) if radius - other > MIN_LABEL_DISTANCE * np.ptp(radii)]
            if np.isfinite(ring.error) and free:
                ax.annotate(ring.names.replace(" and ", ", ").replace(" ", "").replace(",", ", "),
                            (radius, LABEL_HEIGHTS[free[0]]), xycoords=("data", "axes fraction"), rotation=90,
                            fontsize=SMALL_SIZE, ha="right", va="top")
                last[free[0]] = radius
    ax.set_xlabel("radius, px", fontsize=LABEL_SIZE)
    ax.set_ylabel("intensity times radius squared" if size.evidence == "rings" else "density of disks",
                  fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=SMALL_SIZE)
    legend_below(ax, gap=0.22)
    ax.set_title(title, fontsize=TITLE_SIZE)
    return ax


def show_ring_errors(size, ax, title=""):
    """Plot the measured minus the expected radius of each ring of a standard; error bars are one standard deviation.

    Parameters
    ----------
    size : PixelSize
        The measured pixel size.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, PixelSize
    >>> size = PixelSize(0.02, 1e-5, "Au", Decision(True, ()), "rings", ("1 1 1", "2 0 0"), np.array([0.42, 0.49]),
    ...                  np.array([1e-3, 2e-3]), np.array([1e-3, 1e-3]))
    >>> [label.get_text() for label in show_ring_errors(size, Figure().add_subplot()).get_yticklabels()]
    ['1 1 1 (21.0 px)', '2 0 0 (24.5 px)']
    """
    seen = [ring for ring in size.rings if np.isfinite(ring.error)]
    ax.axvline(0, color="0.6", lw=0.8)
    ax.errorbar([100 * ring.error for ring in seen], range(len(seen)), xerr=[100 * ring.sigma for ring in seen],
                fmt="o", ms=4, color="tab:blue")
    ax.set_yticks(range(len(seen)), [f"{ring.names} ({ring_radius_px(size, ring):.1f} px)" for ring in seen],
                  fontsize=SMALL_SIZE)
    ax.set_ylim(len(seen) - 0.5, -0.5)
    ax.set_xlabel("measured less expected, %", fontsize=LABEL_SIZE)
    ax.tick_params(axis="x", labelsize=SMALL_SIZE)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title, fontsize=TITLE_SIZE)
    return ax


def show_deflection(rotation, ax, title="center of mass, px"):
    """Plot the deflection from which a rotation was measured, turned into the frame of the scan.

    Parameters
    ----------
    rotation : Rotation
        The rotation, with its deflection.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes: the length of the deflection in color, its direction as arrows, means over parts of the scan.

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, Rotation
    >>> rotation = Rotation(90.0, False, 0.2, False, Decision(True, ()), deflection=np.ones((2, 8, 8)))
    >>> ax = show_deflection(rotation, Figure().add_subplot())
    >>> len(ax.images), float(ax.collections[0].U[0].round(6)), float(ax.collections[0].V[0].round(6))
    (1, 1.0, -1.0)
    """
    field = rotation.deflection[::-1] if rotation.flip else rotation.deflection
    c, s = np.cos(rotation.radians), np.sin(rotation.radians)
    field = np.stack([c * field[0] - s * field[1], s * field[0] + c * field[1]])
    add_color_bar(ax.imshow(np.hypot(*field), cmap="viridis"), ax)
    step = max(1, -(-max(field.shape[1:]) // MAX_ARROWS))
    rows, columns = (n // step for n in field.shape[1:])
    mean = field[:, :rows * step, :columns * step].reshape(2, rows, step, columns, step).mean((2, 4))
    x, y = (np.arange(n) * step + (step - 1) / 2 for n in (rows, columns))
    # matplotlib's x lies along the columns; rows grow downward.
    ax.quiver(*np.meshgrid(y, x), mean[1], mean[0], angles="xy", color="white", width=0.006)
    ax.set_xticks([])
    ax.set_yticks([])
    name_scan_axes(ax)
    ax.set_title(title, fontsize=TITLE_SIZE)
    return ax


def show_rotation(rotation, ax, title="curl and divergence"):
    """Plot how much of the deflection's power is curl and divergence, against the rotation, without and with flip.

    Parameters
    ----------
    rotation : Rotation
        The rotation between scan and pattern.
    ax : matplotlib.axes.Axes
        Axes to draw into.
    title : str, optional
        Title of the axes.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. The gray band is the rotation within three sigma; a rotation that was not accepted has none.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from py4dstem_prenet.core import Decision, Rotation
    >>> numbers = {"strength": 0.9, "strength_flipped": 0.1, "degrees": 20.0, "degrees_flipped": 50.0}
    >>> ax = show_rotation(Rotation(20.0, False, 0.2, False, Decision(True, (), numbers)), Figure().add_subplot())
    >>> len(ax.lines)
    4
    """
    numbers, angles = rotation.decision.numbers, np.linspace(-90, 90, 361)
    for name, label, color in (("", "no flip", "tab:blue"), ("_flipped", "flip", "tab:orange")):
        if f"strength{name}" in numbers:
            aside = np.radians(2 * (angles - numbers[f"degrees{name}"]))
            curl = 0.5 * (1 - numbers[f"strength{name}"] * np.cos(aside))
            ax.plot(angles, curl, color=color, label=f"curl, {label}")
            ax.plot(angles, 1 - curl, ":", color=color, lw=1, label=f"divergence, {label}")
    if rotation.accepted:
        at = 90 - (90 - rotation.degrees) % 180
        ax.axvspan(at - 3 * rotation.sigma, at + 3 * rotation.sigma, color="0.5", alpha=0.4, lw=0,
                   label="± 3 sigma")
    ax.set_xlabel("rotation, degrees", fontsize=LABEL_SIZE)
    ax.set_ylabel("fraction of the power", fontsize=LABEL_SIZE)
    ax.set_xlim(-90, 90)
    ax.set_ylim(0, 1)
    legend_below(ax, gap=0.22)
    ax.tick_params(labelsize=SMALL_SIZE)
    ax.set_title(title, fontsize=TITLE_SIZE)
    return ax
