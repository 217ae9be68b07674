from .by_hand import (
    AUTOMATIC as AUTOMATIC,
    Choices as Choices,
    KnownCrystal as KnownCrystal,
    chosen as chosen,
    known_crystal as known_crystal,
)
from .writing import write_report as write_report
