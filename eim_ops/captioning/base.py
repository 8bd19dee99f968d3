"""What every captioner answers: the calls by which a multimodal model takes part in an edit."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Refused(ValueError):
    """Some rows of a batch have no usable answer; `answers` holds, row by row, the answer or why there is none."""

    def __init__(self, answers: Sequence[str | Exception]) -> None:
        super().__init__("; ".join(str(answer) for answer in answers if isinstance(answer, Exception)))
        self.answers = tuple(answers)


class Captioner(Protocol):
    """Writes prompts. All calls are batched; row i of the answer belongs to row i of the input.

    They raise Refused where some rows have no answer.
    """

    @property
    def name(self) -> str:
        """As the recipe names it."""
        ...

    @property
    def revision(self) -> str:
        """Changes whenever the captions could: a commit, or a hash of the weights."""
        ...

    def describe(self, images: Sequence[Image.Image]) -> list[str]:
        """A source prompt of each RGB image."""
        ...

    def rewrite(self, prompts: Sequence[str], requests: Sequence[str]) -> list[str]:
        """The target prompt of each (source prompt, edit request): the same text but for the edit."""
        ...

    def rewrite_again(
        self, prompts: Sequence[str], requests: Sequence[str], answers: Sequence[str], problems: Sequence[str]
    ) -> list[str]:
        """Other target prompts, where these answers were refused because of these problems; equal rows are answered
        equally."""
        ...


def all_or_refused(answers: Sequence[str | Exception]) -> list[str]:
    """The answers where all are there; raises Refused otherwise."""
    good = [answer for answer in answers if isinstance(answer, str)]
    if len(good) < len(answers):
        raise Refused(answers)
    return good
