"""The evidence log: every accepted envelope in a file, chained by hashes.

- `chain`: the records and their hashes, as bytes. No I/O.
- `log`: `EvidenceLog`, the open file and the thread that writes it.
- `opening`: locks a file and reads it through before the log is used.
- `disk`: operations on the disk: open, lock, write, sync, rename.
- `files`: the numbered files of rotated logs, and changes by other programs.

`delivery` uses the log through the port `EvidencePort`, and `transport.evidence_driver`
opens and closes it. docs/evidence.md is the normative text.
"""
