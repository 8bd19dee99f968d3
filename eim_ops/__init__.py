"""Precise, training-free image editing by directions in the joint latent of a diffusion transformer.

from PIL import Image
from eim_ops import edit_image, load_models, strip

models = load_models("mini-dit", captioner="mini-vlm")
image = Image.open("face.png")
strengths = [-1, 0, 0.5, 1, 1.5]
edited = edit_image(models, image, "change to broad smile", strengths)
strip(edited).save("strip.png")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eim_ops.method import Method
    from eim_ops.notebook import Models, edit_image, load_models, strip

__all__ = ["Method", "Models", "edit_image", "load_models", "strip"]


def __getattr__(name: str) -> Any:
    # On first use: torch and its company take seconds, and a recipe is checked without them.
    if name == "Method":
        from eim_ops.method import Method

        return Method
    if name in __all__:
        from eim_ops import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'eim_ops' has no attribute {name!r}")
