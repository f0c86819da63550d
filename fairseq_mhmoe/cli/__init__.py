"""Command-line programs: python -m fairseq_mhmoe.cli.<name>."""
