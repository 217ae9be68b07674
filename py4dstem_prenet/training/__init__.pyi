from .export import export as export
from .export import replay as replay
from .loop import train as train
