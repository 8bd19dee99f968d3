"""The processor of an image-text-to-text model: where torchvision is missing, without the part that is for videos."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

_VIDEO = "video_processor"


@dataclass(frozen=True)
class _NoVideos:
    """What chat templates ask of a video processor even where there is no video."""

    num_frames: int = 1
    fps: int = 1


def load_processor(source: Path | str, **pinned: Any) -> ProcessorMixin:
    """A model's processor from a folder or a hub id (`pinned`: its revision).

    Qwen-VL, SmolVLM, InternVL and others bring a video processor, which transformers makes with torchvision alone; a
    captioner shows no videos, so without torchvision theirs is built from the image processor and the tokenizer.
    Raises ValueError for one that needs code which the model brings along.
    """
    own = {"trust_remote_code": False, **pinned}  # left out, transformers asks at the terminal
    if not is_torchvision_available():
        family = PROCESSOR_MAPPING.get(type(AutoConfig.from_pretrained(source, **own)), None)
        if family is not None and _VIDEO in family.get_attributes():
            parts = {
                "image_processor": AutoImageProcessor.from_pretrained(source, **own),
                "tokenizer": AutoTokenizer.from_pretrained(source, **own),
            }
            settings, _ = family.get_processor_dict(source, **pinned)
            settings.pop(_VIDEO, None)
            arguments = [parts.get(name) for name in family.get_attributes()]
            return image_only(family).from_args_and_dict(arguments, settings)
    return AutoProcessor.from_pretrained(source, **own)


@cache
def image_only(family: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A family's processor that takes None for its video processor, and no videos."""

    class ImageOnly(family):  # type: ignore[misc, valid-type]
        video_processor = _NoVideos()

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in family.get_attributes() if name != _VIDEO]

    return ImageOnly
