"""Two processes, real traffic, under 20 s: `python -m examples.demo`."""
