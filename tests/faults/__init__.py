"""The table of faults: bad input and failures, with the error or the flags of each; nothing is changed or left behind.

Tests are parametrized from `cases.CASES`. `python tests/faults` tries all of them and writes docs/faults.md.
"""
