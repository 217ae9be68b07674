from .online import OnlineCalibrator as OnlineCalibrator
from .watcher import watch_file as watch_file
