from .background import (
    Background as Background,
    FalseAlarms as FalseAlarms,
    false_alarms as false_alarms,
    measure_background as measure_background,
)
from .finder import (
    DiskFinder as DiskFinder,
    bragg_disks as bragg_disks,
    find_bragg_disks as find_bragg_disks,
    probabilities as probabilities,
)
from .fitting import (
    FittedDisks as FittedDisks,
    by_direction as by_direction,
    disk_windows as disk_windows,
    fit_disks as fit_disks,
    learned_disk as learned_disk,
)
from .search import Candidates as Candidates, covered as covered, find_disks as find_disks
from .significance import DiskFilter as DiskFilter, li_ma as li_ma
