"""Show the state of a running scan in a terminal: a status line, and events above it.

If the output is not a terminal (but a pipe or a log file), a line is written every LINE_EVERY_S seconds instead.
"""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 10.0  # seconds; shortest time between lines if the output is not a terminal


class Terminal:
    """Shows a `Status` whenever it changes.

    Parameters
    ----------
    total : int
        Positions of the scan.
    progress : bool, optional
        Whether to show the state at all.

    Attributes
    ----------
    live : bool
        Whether the output is a terminal.
    """

    def __init__(self, total, progress=True):
        self._progress, self.live = progress, progress and sys.stderr.isatty()
        # Without {bar}, tqdm does not cut the line to the width.
        self._bar = tqdm(total=total, bar_format="{bar:6} {n_fmt} of {total_fmt}{postfix}", dynamic_ncols=True,
                         disable=not self.live)
        self._shown_alarms, self._note, self._reason, self._state = {}, "", "", "running"
        self._next = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self, status):
        """Show the changes since the last status.

        Parameters
        ----------
        status : Status
            The state of the scan.
        """
        if status.note != self._note:  # another scan
            self._note, self._shown_alarms = status.note, {}
            self._write(status.note)
        if status.reason and status.reason != self._reason:
            self._write(f"No direct beam so far: {status.reason}")
        self._reason = status.reason
        for alarm in status.alarms:
            since, over = self._shown_alarms.get(alarm.kind, ((-1, -1), alarm.over))
            corrected = alarm.since < since and status.state == "ended"  # an earlier start is shown once, at the end
            if alarm.since > since or alarm.over != over or corrected:
                self._write(f"ALARM  {alarm}")
                self._shown_alarms[alarm.kind] = alarm.since, alarm.over
        if not self._bar.disable:
            self._bar.n = status.located
            self._bar.set_postfix_str(status.line())
        before, self._state = self._state, status.state
        if status.state in ("ended", "calibrating", "done"):
            if status.state != "ended" and before in ("running", "waiting", "ended"):  # only once at the end
                self._write(status.sentence)
        elif not self.live and time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_EVERY_S
            self._write(f"{time.strftime('%H:%M:%S')}  {status.located} of {status.total} patterns, {status.line()}")

    def _write(self, text):
        if self._progress:
            tqdm.write(text)
            sys.stdout.flush()
