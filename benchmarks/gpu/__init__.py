"""Large models on one card: `python -m benchmarks.gpu --out FILE.json`. docs/speed.md tells what is measured."""
