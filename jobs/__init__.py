"""The command line: one small file for each job."""

import os

# Model libraries tell of parts that nobody asked for, and draw bars for files of a megabyte.
for _name, _value in {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}.items():
    os.environ.setdefault(_name, _value)
