from .alarms import (
    Alarm as Alarm,
    ellipse_changes as ellipse_changes,
    quick_alarms as quick_alarms,
    saturated_patterns as saturated_patterns,
)
from .following import (
    Ended as Ended,
    Frames as Frames,
    Restarted as Restarted,
    Waiting as Waiting,
    follow as follow,
    wait_for_file as wait_for_file,
)
from .online import UNLEARNED as UNLEARNED, OnlineCalibrator as OnlineCalibrator, start_worker as start_worker
from .server import served as served
from .snapshot import Snapshot as Snapshot, judge_snapshot as judge_snapshot, learn_so_far as learn_so_far
from .sources import Replaced as Replaced, open_source as open_source
from .terminal import Terminal as Terminal
from .watcher import watch_file as watch_file
from .worker import Worker as Worker
