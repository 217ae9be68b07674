"""One thread a process: the tests run side by side, and small networks gain nothing from more."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def banks(tmp_path_factory):
    """A folder of banks where `train` finds them, of seeds whose few specimens are of all kinds."""
    from scans import SPECIMENS

    from py4dstem_prenet.training import loop

    folder = tmp_path_factory.mktemp("banks")
    for wanted, seed in zip(loop.BANKS.values(), (102, 103), strict=True):
        assert "isotropic" in loop.load_bank(folder, seed, SPECIMENS).kind
        (folder / f"bank-{seed}-{SPECIMENS}.npz").rename(folder / f"bank-{wanted}-{SPECIMENS}.npz")
    return folder


@pytest.fixture(scope="session")
def bank(banks):
    """The bank that networks are trained on."""
    from scans import SPECIMENS

    from py4dstem_prenet.training import loop

    return loop.load_bank(banks, loop.BANKS["train"], SPECIMENS)


@pytest.fixture(scope="module")
def beams_learned_once():
    """Let `BeamLocator.learn` learn each scan once a session, for modules about what follows from it.

    Of modules, not of tests, so that the fixtures of a module that calibrate share it.
    """
    from scans import learned_before

    from py4dstem_prenet.origin import BeamLocator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BeamLocator, "learn", classmethod(learned_before(BeamLocator.learn.__func__)))
        yield
