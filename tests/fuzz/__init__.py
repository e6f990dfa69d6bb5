"""Hostile bytes for everything that reads what somebody else wrote.

`python -m tests.fuzz --seconds 60` gives every target that long: guided by coverage
where atheris is installed, otherwise with a seeded random mutator. `targets` says what is
read and what must hold, `mutator` makes the inputs, `__main__` runs it all.
"""
