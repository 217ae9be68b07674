"""One thread a process: the tests run side by side, and small networks gain nothing from more."""

import matplotlib
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)
