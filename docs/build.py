"""`make docs`: web pages of the package's docstrings, into docs/api. Any warning is an error.

    python docs/build.py [FOLDER]
"""

import importlib
import pkgutil
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pdoc


def build(folder: Path) -> int:
    """Write the pages; returns how many modules they are of. Raises UserWarning for what pdoc would only warn of."""
    package = importlib.import_module("py4dstem_prenet")
    for name in package.__all__:  # they are looked up when asked for, which pdoc does not do
        setattr(package, name, getattr(package, name))
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "py4dstem_prenet.")
             if not module.name.rpartition(".")[2].startswith("_")]
    if find_spec("libertem") is None:
        names.remove("py4dstem_prenet.libertem")  # needs that extra to be imported
    for name in names:
        importlib.import_module(name)  # what other packages warn of while they load is not ours
    direct = [name for name in names if name.count(".") == 1]  # pdoc finds what is below them, but not below __all__
    pdoc.render.configure(docformat="google", footer_text=f"py4dstem_prenet {package.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("py4dstem_prenet", *direct, output_directory=folder)
    return len(names) + 1


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "api"
    print(f"{build(out)} modules in {out / 'index.html'}")
