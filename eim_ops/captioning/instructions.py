"""What a captioner is asked, and how its answer is read: JSON with one text, repaired or refused."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import json_repair

_MAX_PROMPT_CHARACTERS = 1000


@dataclass(frozen=True)
class Instructions:
    """Templates of the questions: `rewrite` has {prompt} and {request}, `retry` also {answer} and {problem}.

    A model may carry its own as `eim_instructions` in its config, as mini-vlm does. Without `retry` it is
    asked the same again and its answer sampled. Without `key` it answers with the prompt alone, else with a JSON
    object that holds the prompt under this key.
    """

    describe: str
    rewrite: str
    retry: str | None = None
    key: str | None = None

    @property
    def digest(self) -> str:
        """Changes with every text."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]

    def ask_rewrite(self, prompt: str, request: str) -> str:
        """The question for a target prompt."""
        return self.rewrite.format(prompt=prompt, request=request)

    def ask_again(self, prompt: str, request: str, answer: str, problem: str) -> str:
        """The question after a refused answer; the first one where there is no `retry`."""
        again = self.retry or self.rewrite
        return again.format(prompt=prompt, request=request, answer=answer, problem=problem)

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """JSON schema of an answer; None: plain text."""
        if self.key is None:
            return None
        text = {"type": "string", "minLength": 1, "maxLength": _MAX_PROMPT_CHARACTERS}
        return {
            "type": "object",
            "properties": {self.key: text},
            "required": [self.key],
            "additionalProperties": False,
        }

    def read(self, answer: str) -> str:
        """The prompt in an answer, in one line. Raises ValueError where there is none, or where it is empty or too
        long."""
        shown = f"it starts {' '.join(answer.split())[:80]!r}"
        said = answer if self.key is None else _under(self.key, answer, shown)
        prompt = " ".join(said.split()) if isinstance(said, str) else ""
        if any("\ud800" <= character <= "\udfff" for character in prompt):  # repair reads each escape for itself
            raise ValueError(f"the answer's text holds halves of characters; {shown}")
        if not 1 <= len(prompt) <= _MAX_PROMPT_CHARACTERS:
            under = "" if self.key is None else f" under {self.key!r}"
            raise ValueError(f"the answer has no text of 1 to {_MAX_PROMPT_CHARACTERS} characters{under}; {shown}")
        return prompt


def _under(key: str, answer: str, shown: str) -> Any:
    """What the JSON object in an answer holds under a key; None: nothing. shown: the answer's start, for the error."""
    # Repair closes what was cut as well, and a cut prompt must not pass for a whole one.
    start, end = answer.find("{"), answer.rfind("}")
    if start < 0 or end < start:
        raise ValueError(f"the answer is no whole JSON object; {shown}")
    value = json_repair.loads(answer[start : end + 1])
    return value.get(key) if isinstance(value, dict) else None


GENERAL = Instructions(
    describe=(
        "Describe this image as one prompt for an image generator: short phrases separated by commas, one for each "
        'visible attribute, most important first, at most 40 words. Answer with JSON alone: {"prompt": "..."}'
    ),
    rewrite=(
        "This is a prompt for an image generator:\n{prompt}\nWrite it again with this change: {request}\n"
        "Replace only the words that the change concerns, or add at most three; keep all others and their order. "
        'Answer with JSON alone: {{"prompt": "..."}}'
    ),
    retry=(
        "This is a prompt for an image generator:\n{prompt}\nWrite it again with this change: {request}\n"
        "Replace only the words that the change concerns, or add at most three; keep all others and their order.\n"
        "An earlier answer was {answer!r}. It was refused: {problem}\n"
        'Answer with JSON alone: {{"prompt": "..."}}'
    ),
    key="prompt",
)
"""For instruction-tuned models that have none of their own."""


def constraint_is_installed() -> bool:
    """Whether `eim[constrained]` is, so that a model can only answer with JSON of the schema."""
    return find_spec("llguidance") is not None
