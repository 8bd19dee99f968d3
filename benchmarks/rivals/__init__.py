"""The same edits written without this pipeline, each as its users would write it.

All call the same functions of `eim_ops` on the same images. Each is a command, `python -m benchmarks.rivals.NAME
IMAGES OUT STRENGTH...`, that notes when its models are loaded and when all is written (`benchmarks/clock.py`).
"""
