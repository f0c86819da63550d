"""The papers' evidence: which experts are in use, how sub-tokens spread, curves of runs. Reads checkpoints and logs."""
