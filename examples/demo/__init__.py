"""Several processes, real traffic, about ten seconds: `python -m examples.demo`."""
