"""Open the viewer in a notebook, in a window, or as a figure."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

from . import Session, ViewerPanels, figure_controls, notebook_controls

NOTEBOOK_SIZE, WINDOW_SIZE = (6.4, 6.4), (8.0, 6.4)  # inches; width and height
NOTEBOOK_DPI = 112  # dots per inch; 717 pixels of width fit beside JupyterLab's file browser
WINDOW_DPI = 130  # dots per inch; a window of 1040 x 832 pixels
CONTROLS_FROM = 0.83  # fraction of a window's width; left end of the controls


class Viewer:
    """An open viewer.

    Parameters
    ----------
    session : Session
        State of the viewer.
    panels : ViewerPanels
        The figure.
    controls : ipywidgets.VBox or dict or None
        The controls; None on a canvas that is not interactive.

    Attributes
    ----------
    session : Session
        State of the viewer: `session.report` is the last report, `session.edits` are the corrections.
    figure : matplotlib.figure.Figure
        The figure.
    """

    def __init__(self, session, panels, controls):
        self.session, self.panels, self.controls = session, panels, controls
        self.figure = panels.figure

    @property
    def arguments(self) -> dict:
        """Arguments with which `calibrate` does the same as Apply."""
        return self.session.edits.arguments(self.session.fitted)

    def _repr_mimebundle_(self, **options):
        if hasattr(self.controls, "_repr_mimebundle_"):
            return self.controls._repr_mimebundle_(**options)
        from io import BytesIO

        picture = BytesIO()
        self.figure.savefig(picture, format="png")
        return {"image/png": picture.getvalue(), "text/plain": repr(self)}

    def __repr__(self):
        return f"Viewer of {self.session.datacube.name!r} at {self.session.position}"


def in_notebook() -> bool:
    """Return whether the code runs in the kernel of a notebook.

    Returns
    -------
    bool
        True in JupyterLab, Notebook and other front ends with a kernel; False in scripts and terminals.
    """
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def view(datacube, denoised=None, image=None, device="auto") -> Viewer:
    """Look at a scan, correct its calibration by hand, and calibrate again.

    Click a position in the image of the scan to see its pattern with origin, sigma and ellipse, and, on request, the
    denoised pattern, the difference and Bragg disks. Place the direct beam, choose the model of the descan, draw a
    region of the scan or mask pixels, and press Apply: `calibrate` is called with these arguments. `viewer.arguments`
    holds the arguments, so that a script can repeat the calibration.

    Parameters
    ----------
    datacube : DataCube
        The scan.
    denoised : DataCube, optional
        The same scan, denoised. Without it, single patterns are denoised on request.
    image : numpy.ndarray, shape (Rx, Ry), optional
        Image of the scan in which positions are chosen; by default a virtual dark field.
    device : str, optional
        "auto", "cpu", "cuda" or "mps".

    Returns
    -------
    Viewer
        A notebook shows the viewer if it is the last line of a cell, or with `display`. In a script,
        `matplotlib.pyplot.show()` opens the window. Without an interactive canvas, the viewer is a figure of the middle
        position, denoised.

    Raises
    ------
    PrenetError
        If `denoised` or `image` do not belong to the scan.

    Notes
    -----
    Notebooks need the extra `viewer` (ipympl, ipywidgets).

    Examples
    --------
    >>> from py4dstem_prenet.demo import load_scan
    >>> viewer = view(load_scan()[0])  # doctest: +SKIP
    >>> viewer.arguments  # after the center was placed  # doctest: +SKIP
    {'center': (60.5, 63.0)}
    """
    session = Session(datacube, denoised, image, device)
    if in_notebook():
        return _in_notebook(session)
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=WINDOW_SIZE, dpi=WINDOW_DPI)
    interactive = figure.canvas.required_interactive_framework is not None
    session.clean = not interactive
    panels = ViewerPanels(session, figure, CONTROLS_FROM - 0.02 if interactive else 0.99)
    return Viewer(session, panels, figure_controls(panels, CONTROLS_FROM) if interactive else None)


def _in_notebook(session):
    """The viewer with ipywidgets; a figure where ipympl is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=NOTEBOOK_SIZE, dpi=NOTEBOOK_DPI)
    if find_spec("ipympl") is None:
        warnings.warn('The viewer needs ipympl in notebooks: pip install ipympl ipywidgets, or the extra "viewer". '
                      "A figure is shown instead.", stacklevel=3)
        FigureCanvasAgg(figure)
        session.clean = True
        return Viewer(session, ViewerPanels(session, figure), None)
    from ipympl.backend_nbagg import Canvas, FigureManager

    canvas = Canvas(figure)
    FigureManager(canvas, 0)
    canvas.header_visible = canvas.footer_visible = False
    canvas.toolbar_position = "bottom"  # on the left it covers the image
    panels = ViewerPanels(session, figure)
    return Viewer(session, panels, notebook_controls(panels))
