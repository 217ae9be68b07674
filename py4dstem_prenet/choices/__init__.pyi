from .by_hand import AUTOMATIC as AUTOMATIC, Choices as Choices, chosen as chosen
