"""What every captioner answers: the two calls by which a multimodal model takes part in an edit."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Captioner(Protocol):
    """Writes prompts. Both calls are batched; row i of the answer belongs to row i of the input."""

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
