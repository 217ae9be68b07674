from .by_hand import AUTOMATIC as AUTOMATIC, Choices as Choices, chosen as chosen
from .specimen import KnownCrystal as KnownCrystal, known_crystal as known_crystal
