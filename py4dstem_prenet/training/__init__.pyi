from .center import CenterTask as CenterTask
from .denoise import DenoiseTask as DenoiseTask
from .ellipse import EllipseTask as EllipseTask
from .exporting import export as export
from .loop import (
    BANK_SPECIMENS as BANK_SPECIMENS,
    BANKS as BANKS,
    ORIENTED_FRACTION as ORIENTED_FRACTION,
    VALIDATION_SPECIMENS as VALIDATION_SPECIMENS,
    load_mixed_bank as load_mixed_bank,
    tasks as tasks,
    train as train,
)
from .scenes import draw_scene as draw_scene
from .task import Task as Task
