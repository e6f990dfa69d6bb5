"""Hostile bytes for everything that reads what somebody else wrote.

`python -m tests.fuzz --seconds 60` gives every target that long: guided by coverage
where atheris is installed, otherwise with a seeded random mutator. The modules `targets*`
say what is read and what must hold, `target` what a target is, `mutator` makes the inputs,
`__main__` runs it all. `--replay FILE` runs a saved input again.
"""
