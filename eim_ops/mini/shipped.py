"""Where the shipped models lie, and how they are written there."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SHIPPED: tuple[str, ...] = ("mini-dit", "mini-vlm", "judge")
"""The models that come with the project."""

WEIGHTS = Path(__file__).parent / "weights"


def shipped_path(name: str) -> Path:
    """The folder of a shipped model. Raises KeyError on an unknown name, FileNotFoundError where it holds no model."""
    if name not in SHIPPED:
        raise KeyError(f"no shipped model {name!r}; there are: {', '.join(SHIPPED)}")
    path = WEIGHTS / name
    if not any(path.rglob("*.safetensors")):
        raise FileNotFoundError(f"{path} holds no weights; check out the whole repository, or train the model again")
    return path


def export(name: str, model: "PreTrainedModel", card: str) -> Path:
    """Write a transformers model as fp16 safetensors, with its model card, into the weights folder."""
    path = WEIGHTS / name
    model.half().save_pretrained(path, safe_serialization=True)
    model.float()
    (path / "README.md").write_text(card)
    return path


def parameter_count(model: "torch.nn.Module") -> int:
    """The number of trained numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters())
