"""The figure of the viewer: four panels in matplotlib, and the actions of mouse and arrow keys.

It works on any interactive canvas: ipympl in notebooks, Qt or Tk in scripts, and that of py4D-browser.
"""

from __future__ import annotations

import numpy as np
from matplotlib.backend_bases import MouseButton
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.patches import Ellipse as EllipsePatch, Rectangle
from matplotlib.path import Path
from matplotlib.widgets import LassoSelector, RectangleSelector

from ..report import (
    LABEL_SIZE,
    TITLE_SIZE,
    label_color_bar,
    legend_below,
    name_pattern_axes,
    name_scan_axes,
)
from . import GIVEN_IMAGE, Session

TOOLS = ("look", "center", "region", "mask")  # look: nothing is changed
POWER = 0.4  # exponent of the intensities of patterns, as in the report
MIN_PAIR_WIDTH = 5.0  # inches; narrowest room in which two panels stand side by side
ROW_GAP = 1.05  # inches; height of a legend and a title of two lines
MAX_DIFFERENCE = 3.0  # standard deviations of counting noise; difference in full color
# Marker of the origin: a cross that is open in the middle, where the measured position is drawn.
RETICLE = Path([(-1, 0), (-0.35, 0), (0.35, 0), (1, 0), (0, -1), (0, -0.35), (0, 0.35), (0, 1)],
               [Path.MOVETO, Path.LINETO] * 4)
ZOOM_STEP = 1.3  # factor by which one step of the wheel enlarges patterns
ARROWS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


class ViewerPanels:
    """Virtual image, measured and denoised pattern, and their difference, for one session.

    A click in the virtual image, or an arrow key, chooses the scan position. With the tool "center", a click or a drag
    in a pattern places the direct beam; with "region", a drag in the virtual image draws a rectangle; with "mask", a
    drag in a pattern draws an outline. Patterns are shown with qx downward and qy to the right.

    Parameters
    ----------
    session : Session
        State of the viewer.
    figure : matplotlib.figure.Figure
        An empty figure with its canvas.
    right : float, optional
        Right end of the panels, as a fraction of the figure; beyond it is room for controls.

    Attributes
    ----------
    tool : str
        One of TOOLS.
    changed : list of callable
        Called without arguments after each action.
    run : callable
        `run(title, work, then)` calls `work()` and then `then(result)`; a window with threads may replace it.
    """

    def __init__(self, session: Session, figure, right=0.99):
        self.session, self.figure, self.changed, self._tool, self._right = session, figure, [], "look", right
        axes = self.image, self.measured, self.clean, self.difference = [figure.add_subplot() for _ in range(4)]
        self._arrange()
        self._bars = {}
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
            (name_scan_axes if ax is self.image else name_pattern_axes)(ax)
        self.patterns = (self.measured, self.clean, self.difference)
        self._artists, self._image_artists, self._dragging = [], [], False
        self.run = lambda title, work, then: then(work())
        for name, action in (("button_press_event", self._press), ("motion_notify_event", self._move),
                             ("button_release_event", self._release), ("scroll_event", self._zoom),
                             ("key_press_event", self._key),
                             ("resize_event", self._arrange)):
            figure.canvas.mpl_connect(name, action)
        style = {"facecolor": "none", "edgecolor": "cyan", "linewidth": 1.5}
        self._rectangle = RectangleSelector(self.image, self._region, useblit=False, button=1, props=style,
                                            minspanx=0.6, minspany=0.6)
        self._lassos = [LassoSelector(ax, self._mask, useblit=False, button=1, props={"color": "orange"})
                        for ax in self.patterns]
        self.tool = "look"
        self.draw()

    def _arrange(self, event=None):
        """Place the panels side by side where the figure is wide enough, otherwise one below the other."""
        width, height = self.figure.get_size_inches()
        columns = 2 if self._right * width >= MIN_PAIR_WIDTH else 1
        rows = 4 // columns
        panel = max((height - 1.0 - (rows - 1) * ROW_GAP) / rows, 0.5)  # inches; height of a panel
        grid = self.figure.add_gridspec(
            rows, columns, left=0.32 / width, right=self._right - 0.72 / width, bottom=0.55 / height,
            top=1 - 0.45 / height, wspace=0.45, hspace=ROW_GAP / panel)
        for ax, cell in zip((self.image, self.measured, self.clean, self.difference), grid, strict=True):
            ax.set_subplotspec(cell)

    @property
    def tool(self) -> str:
        """What a drag does."""
        return self._tool

    @tool.setter
    def tool(self, name):
        self._tool = name
        self._rectangle.set_active(name == "region")
        if name != "region":
            self._rectangle.set_visible(False)
        for lasso in self._lassos:
            lasso.set_active(name == "mask")

    def draw(self) -> None:
        """Draw all panels again, after the calibration changed."""
        for artist in self._image_artists:
            artist.remove()
        values, title = self.session.image
        rx, ry = self.session.edits.scan_shape
        low, high = np.percentile(values, [1, 99])
        shown = self.image.imshow(values, cmap="gray", vmin=low, vmax=max(high, low + 1e-12),
                                  extent=(-0.5, ry - 0.5, rx - 0.5, -0.5))
        self._image_artists = [shown]
        self._add_bar(self.image, shown, "" if title == GIVEN_IMAGE else "electrons")
        self.image.set_title(title, fontsize=TITLE_SIZE)
        self.refresh()

    def refresh(self) -> None:
        """Draw the pattern of the present position, and the corrections."""
        for artist in self._artists:
            artist.remove()
        self._artists = []
        seen = self.session.look()
        self._draw_position()
        top = np.percentile(np.where(seen.good, seen.measured, 0), 99.95) if seen.clean is None else seen.clean.max()
        norm = PowerNorm(POWER, vmin=0, vmax=max(float(top), 1e-6), clip=True)
        self._show(self.measured, seen.measured, "gray", norm)
        self.measured.set_title(_measured_title(seen), fontsize=TITLE_SIZE)
        if seen.clean is None:
            for ax in (self.clean, self.difference):
                ax.set_title("")
            hint = 'To see the denoised\npattern, check "denoise".'
            self._artists.append(self.clean.text(0.5, 0.5, hint, fontsize=TITLE_SIZE, color="0.4", ha="center",
                                                 va="center", transform=self.clean.transAxes))
        else:
            self._show(self.clean, seen.clean, "gray", norm)
            self._show(self.difference, seen.difference, "RdBu_r", Normalize(-MAX_DIFFERENCE, MAX_DIFFERENCE),
                       "sigma of counting noise")
            self.clean.set_title("denoised", fontsize=TITLE_SIZE)
            self.difference.set_title("measured - denoised", fontsize=TITLE_SIZE)
        for ax in self.patterns:
            ax.set_frame_on(bool(ax.images))
            if ax in self._bars:
                self._bars[ax].ax.set_visible(bool(ax.images))
            for axis in (ax.xaxis, ax.yaxis):
                axis.label.set_visible(bool(ax.images))
            if ax is self.measured or seen.clean is not None:
                self._mark(ax, seen)
        legend_below(self.measured, gap=0.12)
        if self.measured.get_legend() is not None:
            self._artists.append(self.measured.get_legend())
        self.figure.canvas.draw_idle()
        for action in self.changed:
            action()

    def _draw_position(self):
        """The present position, corrected positions and the region, in the virtual image."""
        row, column = self.session.position
        self._artists += self.image.plot(column, row, "s", ms=9, mfc="none", mec="red", mew=1.8)
        if self.session.edits.centers:
            rows, columns = np.array(list(self.session.edits.centers)).T
            self._artists += self.image.plot(columns, rows, "+", ms=9, color="cyan")
        if self.session.edits.region is not None:
            rows, columns = self.session.edits.region
            box = Rectangle((columns.start - 0.5, rows.start - 0.5), columns.stop - columns.start,
                            rows.stop - rows.start, fill=False, ec="cyan", lw=1.5, ls="--")
            self._artists.append(self.image.add_patch(box))

    def _show(self, ax, values, cmap, norm, unit="electrons"):
        image = ax.imshow(values, cmap=cmap, norm=norm)
        self._artists.append(image)
        self._add_bar(ax, image, unit)

    def _add_bar(self, ax, image, unit):
        """A color bar beside a panel; a later image takes over the bar that is there."""
        if ax in self._bars:
            self._bars[ax].update_normal(image)
        else:
            self._bars[ax] = self.figure.colorbar(image, cax=ax.inset_axes((1.03, 0.0, 0.04, 1.0)))
        bar = self._bars[ax]
        label_color_bar(bar)
        bar.set_label(unit, fontsize=LABEL_SIZE)

    def _mark(self, ax, seen):
        """Origin, its sigma, the ellipse at the radius of the direct disk, disks, and masked pixels."""
        session, radius = self.session, seen.radius or 0.05 * min(seen.measured.shape)
        mask = session.edits.mask
        if mask is not None and not mask.all():
            shade = np.zeros((*mask.shape, 4))
            shade[~mask] = (1.0, 0.6, 0.0, 0.45)
            self._artists.append(ax.imshow(shade))
            self._artists.append(ax.add_patch(Rectangle((-2.0, -2.0), 0.0, 0.0, color="orange", label="masked")))
        if seen.disks is not None:
            self._artists += ax.plot(seen.disks[:, 1], seen.disks[:, 0], "o", ms=7, mfc="none", mec="lime", mew=1,
                                     label="Bragg disks")
        if seen.origin is not None and seen.sigma is not None:
            self._artists.append(ax.errorbar(seen.origin[1], seen.origin[0], xerr=3 * seen.sigma[1],
                                             yerr=3 * seen.sigma[0], color="yellow", lw=1.2, fmt=".", ms=3,
                                             label="measured ± 3 sigma"))
        center = session.center
        if center is None:
            return
        by_hand = bool(session.edits.centers)
        if by_hand and session.fitted is not None:
            self._artists += ax.plot(*(q[session.position] for q in session.fitted[::-1]), "+", color="red", ms=9,
                                     mew=1.2, label="origin that is set")
        color, label = ("cyan", "placed by hand") if by_hand else ("red", "origin that is set")
        self._artists += ax.plot(center[1], center[0], marker=RETICLE, ls="none", color=color, ms=16, mew=1.5,
                                 label=label)
        a, b, theta = seen.ellipse or (1.0, 1.0, 0.0)
        # The width of a patch lies along the columns; its angle is measured from them toward the rows.
        patch = EllipsePatch((center[1], center[0]), 2 * radius * b, 2 * radius * a, angle=-np.degrees(theta),
                             fill=False, ec=color, lw=1.2, ls="-" if seen.ellipse else ":",
                             label="ellipse that is set" if seen.ellipse else "no ellipse is set")
        self._artists.append(ax.add_patch(patch))

    # --- what controls do ---------------------------------------------------------------------------------

    def apply(self, progress=True) -> None:
        """Calibrate with the corrections, write accepted results, and draw them.

        Parameters
        ----------
        progress : bool, optional
            Whether to show progress bars.
        """
        self.run("Calibrating", lambda: self.session.apply(progress), lambda report: self.draw())

    def undo(self) -> None:
        """Restore the previous calibration, and draw it."""
        self.session.undo()
        self.draw()

    def clear(self) -> None:
        """Remove all corrections; nothing is written before Apply."""
        self.session.clear()
        self.refresh()

    def show(self, clean: bool, disks: bool) -> None:
        """Choose what to compute for the pattern that is shown.

        Parameters
        ----------
        clean : bool
            Whether it is denoised.
        disks : bool
            Whether its Bragg disks are searched.
        """
        self.session.clean, self.session.disks = clean, disks
        self.run("Looking", self.session.look, lambda seen: self.refresh())

    # --- mouse and keys -----------------------------------------------------------------------------------

    def _panning(self):
        """Whether the toolbar of the canvas zooms or pans, which must not change anything."""
        toolbar = getattr(self.figure.canvas, "toolbar", None)
        return bool(getattr(toolbar, "mode", ""))

    def _press(self, event):
        if event.inaxes is None or self._panning():
            return
        if event.button == MouseButton.RIGHT and event.inaxes in self.patterns and self.tool == "center":
            self.session.remove_center()
            self.refresh()
        elif event.button != 1:
            return
        elif event.inaxes is self.image and self.tool != "region":
            self.session.select(event.ydata, event.xdata)
            self.refresh()
        elif event.inaxes in self.patterns and self.tool == "center":
            self._dragging = True
            self._place(event)

    def _move(self, event):
        if self._dragging and event.inaxes in self.patterns:
            self._place(event)

    def _release(self, event):
        self._dragging = False

    def _place(self, event):
        self.session.move_center(event.ydata, event.xdata)
        self.refresh()

    def _zoom(self, event):
        """Enlarge all patterns about the pointer, or reduce them until they are complete."""
        if event.inaxes not in self.patterns or not event.inaxes.images:
            return
        left, right, bottom, top = event.inaxes.images[0].get_extent()
        x, y = (at + np.subtract(limits, at) * ZOOM_STEP ** -event.step for at, limits in (
            (event.xdata, event.inaxes.get_xlim()), (event.ydata, event.inaxes.get_ylim())))
        complete = np.ptp(x) >= right - left
        for ax in self.patterns:
            ax.set_xlim((left, right) if complete else x, auto=complete)
            ax.set_ylim((bottom, top) if complete else y, auto=complete)
        self.figure.canvas.draw_idle()

    def _key(self, event):
        if event.key in ARROWS:
            self.session.select(*np.add(self.session.position, ARROWS[event.key]))
            self.refresh()

    def _region(self, press, release):
        self.session.edits.set_region((press.ydata, press.xdata), (release.ydata, release.xdata))
        self._rectangle.set_visible(False)
        self.refresh()

    def _mask(self, outline):
        self.session.edits.add_mask([(y, x) for x, y in outline])
        self.refresh()


def _measured_title(seen):
    """The position and its origin with sigma."""
    if seen.origin is None:
        return f"measured at {seen.position}" + ("" if seen.fitted is None else "\nno beam was found here")
    told = "({:.2f}, {:.2f})".format(*seen.origin)
    if seen.sigma is not None:
        told += " ± ({:.2f}, {:.2f})".format(*seen.sigma)
    return f"measured at {seen.position}\norigin {told} px"
