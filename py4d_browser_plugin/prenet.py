"""Plugins > prenet in py4D-browser: calibrate the open scan, see whether one can go on, save it.

py4D-browser loads every module of the namespace package `py4d_browser_plugin` and makes the class that has a
`plugin_id`. Work is done on a thread of its own, so that the window stays alive; whatever touches the window is done on
the window's thread.
"""

import traceback
from html import escape
from threading import Thread

from PyQt5.QtCore import QObject, Qt, QTimer, pyqtSignal
from PyQt5.QtGui import QFontDatabase
from PyQt5.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QMessageBox,
    QPlainTextEdit,
    QProgressDialog,
    QSplitter,
    QTextBrowser,
    QVBoxLayout,
)

from py4dstem_prenet.core.errors import PrenetError

KINDS = ("Scan and calibration (*.h5)", "Calibration alone (*.h5)")
MARKS = {"green": ("●", "#2da44e"), "amber": ("▲", "#bf8700"), "red": ("■", "#cf222e")}  # never by color alone
BEAT = 200  # ms between looks at how far the work is


class PrenetPlugin(QObject):
    """The entries below Plugins > prenet. `busy` while work goes on; `dialog` is the last one that was opened."""

    plugin_id = "py4dstem_prenet"
    display_name = "prenet"
    uses_plugin_menu = True

    _ended = pyqtSignal(object, object, object)  # what to do with the result, result, error

    def __init__(self, parent, plugin_menu, plugin_action=None):
        super().__init__(parent)
        self.window, self.dialog, self._thread, self._bar = parent, None, None, None
        plugin_menu.addAction("Calibrate", self.calibrate)
        plugin_menu.addAction("Maps and verdicts...", self.look)
        plugin_menu.addAction("Correct by hand...", self.correct)
        plugin_menu.addAction("Save as...", self.save)
        self._ended.connect(self._end)
        self._clock = QTimer(self, interval=BEAT)
        self._clock.timeout.connect(self._tell_progress)

    @property
    def busy(self):
        """Whether work goes on."""
        return self._thread is not None

    def calibrate(self):
        """Origin, descan and ellipse of the open scan, written into its calibration; then the report."""
        cube = self._cube()
        if cube is None:
            return

        def work():
            from py4dstem_prenet.pipeline import calibrate

            return str(calibrate(cube))

        self._start("Calibrating", work, self._show_text)

    def look(self):
        """Can I go on? Verdicts and maps of a calibrated scan."""
        cube = self._cube(calibrated=True)
        if cube is None:
            return

        def work():
            from matplotlib.figure import Figure

            from py4dstem_prenet.review import review, show

            seen = review(cube)
            if seen.origin is None:  # the calibration is of other data
                return seen, None
            figure = Figure(figsize=(9, 11), layout="constrained")
            show(cube, figure.subplots(4, 3))
            return seen, figure

        self._start("Looking at the calibration", work, self._show_verdicts)

    def correct(self):
        """Single patterns with their origin; center, region, mask and model by hand, and calibrated anew."""
        cube = self._cube()
        if cube is None:
            return

        def work():
            from py4dstem_prenet.viewer import Session

            session = Session(cube)
            return session, session.image, session.look()  # what takes time

        self._start("Reading the scan", work, lambda read: self._show_viewer(read[0]))

    def save(self):
        """The open scan, or its calibration alone, as a new EMD file."""
        cube = self._cube(calibrated=True)
        if cube is None:
            return
        # Nothing is overwritten: the answer to a name that is taken is our own.
        path, kind = QFileDialog.getSaveFileName(self.window, "Save as a new file", "", ";;".join(KINDS), KINDS[0],
                                                 QFileDialog.DontConfirmOverwrite)
        if not path:
            return

        def work():
            from py4dstem_prenet.io.emd_files import save

            save(cube, path, data=kind != KINDS[1])

        self._start("Saving", work, lambda _: self.window.statusBar().showMessage(f"Saved {path}."))

    def close(self):
        """Called when the browser closes: what is being written is finished first."""
        if self._thread is not None:
            self._thread.join()

    # --- work -------------------------------------------------------------------------------------------------

    def _cube(self, calibrated=False):
        """The open scan, or None, after saying why there is nothing to do."""
        cube, told = self.window.datacube, None
        if self.busy:
            told = "prenet is at work; wait until it is done."
        elif cube is None:
            told = "No scan is open; open one with File first."
        elif calibrated and (cube.calibration is None or cube.calibration.get_origin_meas() is None):
            told = "This scan is not calibrated; choose Plugins > prenet > Calibrate first."
        if told is not None:
            self._complain(told)
        return cube if told is None else None

    def _start(self, title, work, then):
        """Do `work()` on a thread; hand what it returns to `then` on the window's thread."""
        def run():
            try:
                result, error = work(), None
            except Exception as caught:  # whatever it is, the window says it
                result, error = None, caught
            self._ended.emit(then, result, error)

        self._bar = QProgressDialog(title, None, 0, 0, self.window)
        self._bar.setWindowTitle("prenet")
        self._bar.setWindowModality(Qt.WindowModal)  # nobody changes the scan meanwhile
        self._bar.setMinimumDuration(0)
        self._bar.setMinimumWidth(360)
        self._bar.show()
        self._title = title
        self._thread = Thread(target=run, name="prenet", daemon=True)
        self._clock.start()
        self._thread.start()

    def _tell_progress(self):
        """What the innermost of our progress bars, which otherwise only a terminal shows, says."""
        from tqdm import tqdm

        bars = [bar for bar in list(getattr(tqdm, "_instances", ())) if bar.total]
        if bars and self._bar is not None:
            bar = bars[-1] if len(bars) == 1 else max(bars, key=lambda b: abs(b.pos))
            self._bar.setRange(0, 1000)
            self._bar.setValue(min(999, int(1000 * bar.n / bar.total)))  # at its maximum the dialog would hide
            self._bar.setLabelText(f"{self._title}: {(bar.desc or '').rstrip(': ')}")

    def _end(self, then, result, error):
        self._clock.stop()
        self._thread.join()
        self._thread = None
        self._bar.close()
        self._bar.deleteLater()
        self._bar = None
        if error is None:
            then(result)
        elif isinstance(error, PrenetError):
            self._complain(str(error))
        else:
            self._complain(f"This should not have happened: {type(error).__name__}: {error}",
                           "".join(traceback.format_exception(error)))

    # --- dialogs ----------------------------------------------------------------------------------------------

    def _complain(self, sentence, details=""):
        box = QMessageBox(QMessageBox.Warning, "prenet", sentence, QMessageBox.Ok, self.window)
        box.setDetailedText(details)
        self._open(box)

    def _show_text(self, text):
        box, layout = self._dialog("prenet: what was found", (820, 480))
        page = QPlainTextEdit(text, readOnly=True)
        page.setFont(QFontDatabase.systemFont(QFontDatabase.FixedFont))
        page.setLineWrapMode(QPlainTextEdit.WidgetWidth)
        layout.addWidget(page)
        buttons = QDialogButtonBox(QDialogButtonBox.Close)
        buttons.rejected.connect(box.reject)
        onward = buttons.addButton("Maps and verdicts...", QDialogButtonBox.ActionRole)
        onward.clicked.connect(lambda: (box.accept(), self.look()))
        layout.addWidget(buttons)
        self._open(box)

    def _show_verdicts(self, result):
        seen, figure = result
        box, layout = self._dialog("prenet: can I go on?", (1500, 900))
        words = QTextBrowser()
        words.setHtml(_page(seen.verdicts))
        parts = QSplitter(Qt.Horizontal)
        parts.addWidget(words)
        if figure is not None:
            from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg

            parts.addWidget(FigureCanvasQTAgg(figure))
            parts.setSizes([420, 1080])
        layout.addWidget(parts)
        buttons = QDialogButtonBox(QDialogButtonBox.Close)
        buttons.rejected.connect(box.reject)
        layout.addWidget(buttons)
        self._open(box)

    def _show_viewer(self, session):
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        from py4dstem_prenet.viewer import ViewerPanels, figure_controls

        box, layout = self._dialog("prenet: correct by hand", (1150, 880))
        canvas = FigureCanvasQTAgg(Figure(figsize=(11, 8.4)))
        canvas.setFocusPolicy(Qt.StrongFocus)  # for the arrow keys
        box.panels = ViewerPanels(session, canvas.figure, 0.81)
        box.panels.run = self._start
        box.controls = figure_controls(box.panels)
        layout.addWidget(canvas)
        self._open(box)

    def _dialog(self, title, size):
        box = QDialog(self.window)
        box.setWindowTitle(title)
        box.resize(*size)
        return box, QVBoxLayout(box)

    def _open(self, box):
        box.setAttribute(Qt.WA_DeleteOnClose)
        self.dialog = box
        box.show()


def _page(verdicts):
    """Verdicts as rich text, the one above all first."""
    from py4dstem_prenet.report.verdicts import overall

    def told(verdict, size):
        mark, color = MARKS[verdict.light]
        why = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdict.why)
        return (f'<p style="font-size:{size}pt"><b>{escape(verdict.question)}</b><br>'
                f'<span style="color:{color}">{mark} {verdict.light.capitalize()}.</span> '
                f"{escape(verdict.answer)}</p><ul>{why}</ul>")

    return told(overall(verdicts), 14) + "<hr>" + "".join(told(v, 11) for v in verdicts)
