"""Entry points: one small module per command."""
