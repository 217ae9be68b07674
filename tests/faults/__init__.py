"""The fault matrix: bad input and faults, what the user is told, and proof that nothing was changed or left behind.

`cases.CASES` is the one table: tests are parametrized from it, and `python tests/faults` writes docs/faults.md from it.
"""
