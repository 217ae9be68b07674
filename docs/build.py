"""`make docs`: the guides (Sphinx) and the package's docstrings (pdoc) as web pages. Any warning is an error.

    python docs/build.py [FOLDER]     # the pages, into docs/site by default
    python docs/build.py --check FOLDER   # the same in half the time, without sources of functions and search index
    python docs/build.py --flags      # docs/flags.md alone
"""

import importlib
import pkgutil
import re
import sys
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

# Of verdicts:
TOPICS = ("descan", "calibration", "origin", "ellipse", "pixel_size", "rotation", "detector", "denoising")
SEVERITY_LIGHTS = {"info": "green", "warning": "amber", "refusal": "red"}
WITH_LIBERTEM = ("py4dstem_prenet.libertem", "py4dstem_prenet.io.dataset_scan", "py4dstem_prenet.live.udf")
STAGES = ("detector", "origin", "descan", "ellipse", "pixel_size", "rotation", "probe", "calibration", "transfer",
          "denoising", "files", "live", "summary")


def flags_page() -> str:
    """Return docs/flags.md, written from the table of flags.

    Returns
    -------
    str
        The page.
    """
    from py4dstem_prenet.core import FLAGS, Flag
    from py4dstem_prenet.report import make_verdict

    lines = ["# Verdicts and flags", "",
             "Written by `python docs/build.py --flags` from the tables in `py4dstem_prenet/core/flag_table/` and "
             "`py4dstem_prenet/report/verdicts.py`.", "",
             "## Verdicts", "",
             "The page of `report()`, `prenet report` and py4D-browser answer the questions of this table. The color "
             "of an answer is that of the most serious flag on its subject: green for information, amber for a "
             "warning, red for a refusal. A refused ellipse is amber, since the calibration can be used without one. "
             "The overall verdict has the most serious color of all answers except denoising, because a calibration "
             "does not need denoising.", "",
             "| question | green | amber | red |", "|---|---|---|---|"]
    flags = [Flag(next(kind.name for kind in FLAGS.values() if kind.severity == severity))
             for severity in SEVERITY_LIGHTS]
    for topic in TOPICS:
        verdicts = [make_verdict(topic, [flag]) for flag in flags]
        lines.append(f"| {verdicts[0].question} | " + " | ".join(verdict.answer for verdict in verdicts) + " |")
    lines += ["", "## Flags", "",
              "Each result has flags. They are in `report.flags`, `report.fit.flags`, the output of `--json`, verdicts "
              "and alarms. A flag has a name, a severity (info, warning, refusal), numbers, a sentence and, if there "
              "is something to do, an action. In this table, words in capitals stand for the numbers of the flag."]
    for stage in STAGES:
        lines += ["", f"### {stage}", "", "| flag | severity | meaning | what to do |", "|---|---|---|---|"]
        lines += [f"| `{kind.name}` | {kind.severity} | {_template(kind.sentence)} | {_template(kind.action)} |"
                  for kind in FLAGS.values() if kind.stage == stage]
    return "\n".join(lines) + "\n"


def _template(text):
    """A sentence with names in capitals in the place of numbers."""
    return re.sub(r"\{(\w+)[^}]*\}", lambda match: match.group(1).upper(), text).replace("|", "\\|")


def build_guides(folder: Path) -> None:
    """Write the pages of the guides.

    Parameters
    ----------
    folder : pathlib.Path
        Where they are written.

    Raises
    ------
    SystemExit
        Sphinx has warned: a link leads nowhere, or a page is in no table of contents.
    """
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory() as cache:
        if build_main(["-q", "-W", "--keep-going", "-d", cache, str(Path(__file__).parent), str(folder)]):
            sys.exit(1)


def build_api(folder: Path, whole: bool = True) -> int:
    """Write the pages of all modules.

    Parameters
    ----------
    folder : pathlib.Path
        Where they are written.
    whole : bool
        With the sources of functions and a search index, which take half of the time and can raise no warning.

    Returns
    -------
    int
        How many modules they are of.

    Raises
    ------
    UserWarning
        Anything of which pdoc would only warn.
    """
    import pdoc

    package = importlib.import_module("py4dstem_prenet")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "py4dstem_prenet.")
             if not module.name.rpartition(".")[2].startswith("_")]
    if find_spec("libertem") is None:  # these need that extra to be imported
        names = [name for name in names if name not in WITH_LIBERTEM]
    for name in names:
        importlib.import_module(name)  # warnings of other packages while they load are not ours
    for name in ["py4dstem_prenet", *names]:  # names that are looked up when asked for, which pdoc does not do
        module = sys.modules[name]
        for public in tuple(getattr(module, "__all__", ())):
            try:
                setattr(module, public, getattr(module, public))
            except ImportError:  # it needs the extra `libertem`
                module.__all__.remove(public)
    pdoc.render.configure(docformat="numpy", footer_text=f"py4dstem_prenet {package.__version__}",
                          show_source=whole, search=whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if find_spec("libertem") is None:  # the stubs of two packages import it
            warnings.filterwarnings("ignore", "Error parsing type stubs for py4dstem_prenet.(io|live)")
        listed = {f"py4dstem_prenet.{name}" for name in package.__all__}  # pdoc finds these by itself
        pdoc.pdoc("py4dstem_prenet", *(name for name in names if name not in listed), output_directory=folder)
    return len(names) + 1


if __name__ == "__main__":
    here = Path(__file__).parent
    if sys.argv[1:] == ["--flags"]:
        (here / "flags.md").write_text(flags_page(), encoding="utf-8")
    else:
        names = [name for name in sys.argv[1:] if name != "--check"]
        out = Path(names[0]) if names else here / "site"
        build_guides(out)
        count = build_api(out / "api", whole=len(names) == len(sys.argv) - 1)
        print(f"Guides in {out / 'index.html'}, {count} modules in {out / 'api' / 'index.html'}")
