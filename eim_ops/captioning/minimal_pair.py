"""Whether a target prompt is its source prompt but for one short edit, as the text direction needs it."""

import re

MAX_CHANGED_WORDS = 3


def check_minimal_pair(source: str, target: str, max_changed: int = MAX_CHANGED_WORDS) -> None:
    """Raise ValueError, naming the words, unless the two differ in one run of at most `max_changed` words.

    Case and commas don't count. Equal prompts pass: the source states already what is asked. A run may
    be put in where the source doesn't state the attribute; taking words out is no edit.
    """
    before, after = prompt_words(source), prompt_words(target)
    shortest = min(len(before), len(after))
    start = next((i for i in range(shortest) if before[i] != after[i]), shortest)
    left = shortest - start
    end = next((i for i in range(left) if before[-1 - i] != after[-1 - i]), left)
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    if max(len(old), len(new)) > max_changed or (old and not new):
        raise ValueError(
            f"target prompt changes {' '.join(old)!r} to {' '.join(new)!r}; an edit replaces or adds at most "
            f"{max_changed} words in one place; source {source!r}, target {target!r}"
        )


def prompt_words(prompt: str) -> list[str]:
    """The words of a prompt, lower-cased, without punctuation."""
    return re.sub(r"[,.;]", " ", prompt.lower()).split()
