from .drift import drift_panels as drift_panels
from .outcome import COLUMNS as COLUMNS, FileOutcome as FileOutcome, Series as Series, outcome_of as outcome_of
from .run import calibrate_files as calibrate_files
from .table import read_summary as read_summary, write_summaries as write_summaries
