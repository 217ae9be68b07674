"""Settings of Sphinx for the guides; `docs/build.py` runs it."""

from py4dstem_prenet import __version__

project, author, release = "py4dstem_prenet", "The py4dstem_prenet developers", __version__
copyright = "the py4dstem_prenet developers, GPL-3.0-or-later"
extensions = ["myst_parser"]
myst_heading_anchors = 4
exclude_patterns = ["site"]
html_theme = "furo"
html_theme_options = {"light_css_variables": {"code-font-size": "80%"}}
html_copy_source = False
html_title = f"py4dstem_prenet {release}"
