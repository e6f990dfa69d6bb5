"""Typed payloads: `codecs` encodes and decodes them, `subjects` gives a subject to each type."""
