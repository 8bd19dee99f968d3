"""A backbone with its method: all of an edit in one call, or each unit alone with what travels between them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.carry import pack_encoded, pack_halves, unpack_clean, unpack_encoded, unpack_halves
from eim_ops.edit import (
    check_shared,
    edit_images,
    encode_images,
    encode_prompts,
    identify_targets,
    manipulate_images,
    shared_halves,
)
from eim_ops.identify.shared import load_direction
from eim_ops.method import Method
from eim_ops.task import EditedImage, EditTask, Target, wanted_targets


class Editor:
    """Edits images by one model and one method. Lists run parallel to the images; `batch`: rows of every model call."""

    def __init__(self, backbone: Backbone, method: Method) -> None:
        self._backbone, self._method = backbone, method
        self._shared: dict[str, Tensor] = {}

    @property
    def revision(self) -> str:
        """What pins the weights that are loaded."""
        return self._backbone.revision

    @property
    def evaluations(self) -> int:
        """Rows of all model calls until now, padding among them."""
        return self._backbone.evaluations

    def take_shared(self, folder: Path) -> None:
        """Make the shared direction in `folder`, named by its id, known to tasks. Raises DirectionError."""
        self._shared[folder.name] = load_direction(folder, self._backbone).direction.image

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptTooLongError for a prompt that the model would cut; costs no evaluation."""
        self._backbone.check_prompt(prompt)

    def __call__(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], tasks: Sequence[Sequence[EditTask]],
        seeds: Sequence[int], batch: int,
    ) -> Iterator[EditedImage]:  # fmt: skip
        """Each task's result once. Images are uint8 (H, W, 3) of one size."""
        return edit_images(self._backbone, images, source_prompts, tasks, self._method, seeds, batch, self._shared)

    def encode(
        self, images: Sequence[np.ndarray], source_prompts: Sequence[str], seeds: Sequence[int], batch: int
    ) -> list[bytes]:
        """What the other units need of each image."""
        return pack_encoded(encode_images(self._backbone, images, source_prompts, seeds, self._method, batch))

    def identify(
        self, encoded: Sequence[bytes], source_prompts: Sequence[str], targets: Sequence[tuple[int, str]],
        seeds: Sequence[int], batch: int,
    ) -> list[bytes]:  # fmt: skip
        """The image half of each target (row of its image, target prompt)."""
        source = encode_prompts(self._backbone, source_prompts, batch)
        prompts = encode_prompts(self._backbone, [prompt for _, prompt in targets], batch)
        clean = unpack_clean(encoded).to(source.tokens.device)
        asked = [Target(*its) for its in targets]
        halves = identify_targets(self._backbone, clean, source, asked, prompts, seeds, self._method, batch)
        return pack_halves(halves)

    def manipulate(
        self, encoded: Sequence[bytes], halves: Sequence[Mapping[str, bytes]], source_prompts: Sequence[str],
        tasks: Sequence[Sequence[EditTask]], seeds: Sequence[int], batch: int,
    ) -> Iterator[EditedImage]:  # fmt: skip
        """As the whole call. halves: of each image, by target prompt; of shared directions none."""
        check_shared(tasks, self._shared)
        targets = wanted_targets(tasks)
        if not targets:
            return
        images = unpack_encoded(self._backbone, encoded, source_prompts, seeds, self._method, batch)
        prompts = encode_prompts(self._backbone, [target.prompt for target in targets], batch)
        clean = images.joint.clean
        if self._shared:
            found = shared_halves(self._shared, tasks, clean)
        elif not self._method.moves_image:
            found = identify_targets(
                self._backbone, clean, images.joint.conditioning, targets, prompts, seeds, self._method, batch
            )
        else:
            found = unpack_halves([halves[target.row][target.prompt] for target in targets], clean)
        yield from manipulate_images(
            self._backbone, images, found, prompts, source_prompts, tasks, self._method, seeds, batch
        )
