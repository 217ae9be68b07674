"""What an operator reads in a terminal: one line that is kept up to date, and above it what is new.

Where nobody sits at it (a pipe, a log file) there are lines only, one now and then.
"""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

EVERY = 10.0  # seconds between lines where there is no terminal
_PROGRESS_FORMAT = "{bar:6} {n_fmt} of {total_fmt}{postfix}"  # without a bar tqdm would not cut it to the terminal's width


class Terminal:
    """Shows every `watch.Status` that it is given. progress: whether to show anything. live: whether somebody looks."""

    def __init__(self, total, progress=True):
        self._progress, self.live = progress, progress and sys.stderr.isatty()
        self._bar = tqdm(total=total, bar_format=_PROGRESS_FORMAT, dynamic_ncols=True, disable=not self.live)
        self._told, self._note, self._reason, self._state, self._next = {}, "", "", "running", time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self, status):
        if status.note != self._note:  # another scan
            self._note, self._told = status.note, {}
            self._say(status.note)
        if status.reason and status.reason != self._reason:
            self._say(f"So far no direct beam: {status.reason}")
        self._reason = status.reason
        for alarm in status.alarms:
            since, over = self._told.get(alarm.kind, ((-1, -1), alarm.over))
            better = alarm.since < since and status.state == "ended"  # the same alarm, known better: once, at the end
            if alarm.since > since or alarm.over != over or better:
                self._say(f"ALARM  {alarm}")
                self._told[alarm.kind] = alarm.since, alarm.over
        if not self._bar.disable:
            self._bar.n = status.located
            self._bar.set_postfix_str(status.line())
        before, self._state = self._state, status.state
        if status.state in ("ended", "calibrating", "done"):
            if status.state != "ended" and before in ("running", "waiting", "ended"):  # one sentence at the end
                self._say(status.sentence)
        elif not self.live and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._say(f"{time.strftime('%H:%M:%S')}  {status.located} of {status.total} patterns, {status.line()}")

    def _say(self, text):
        if self._progress:
            tqdm.write(text)
            sys.stdout.flush()
