"""A small fleet: a base, its robots, a console and an auditor, each a process of its own."""
