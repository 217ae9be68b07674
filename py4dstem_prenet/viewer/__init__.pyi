from .controls import figure_controls as figure_controls, notebook_controls as notebook_controls
from .edits import Edits as Edits
from .launch import Viewer as Viewer, view as view
from .panels import TOOLS as TOOLS, ViewerPanels as ViewerPanels
from .patterns import PatternSource as PatternSource, PatternView as PatternView
from .session import GIVEN_IMAGE as GIVEN_IMAGE, Session as Session
