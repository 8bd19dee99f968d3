"""`eim spectrum MODEL IMAGES`: measure how images of one prompt vary, by which HSDS is preconditioned."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def spectrum(
    model: Annotated[Path, typer.Argument(help="a local model folder; the spectrum is put into it")],
    images: Annotated[str, typer.Argument(help="a folder or s3:// prefix of images like those to be edited")],
    captioner: Annotated[str, typer.Option(help="writes their prompts: mini-vlm for rendered faces, or a folder")],
    count: Annotated[int, typer.Option(min=2, help="how many of them")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="images a call")] = 16,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="of the weights")] = "float32",
) -> None:
    """Measure the power spectrum of what prompts leave open in images, and keep it beside the weights."""
    import numpy as np
    import torch
    from PIL import Image

    from eim_ops.aspect_buckets import Size
    from eim_ops.edit import full_batches, to_images
    from eim_ops.identify.spectrum import FILE, measure_spectrum, save_spectrum, unexplained
    from eim_ops.named_models import load_backbone, load_captioner
    from pipeline import storage
    from pipeline.decode import decode_image
    from pipeline.fit import Fit
    from pipeline.listing import IMAGE_SUFFIXES

    if not model.is_dir():
        raise typer.BadParameter(f"{model} is no folder; download the model to one first", param_hint="MODEL")
    entries = (entry.uri for entry in storage.list_entries(storage.normalise(images)))
    uris = [uri for uri in entries if Path(uri).suffix.lower() in IMAGE_SUFFIXES][:count]
    if len(uris) < 2:
        raise typer.BadParameter(f"{images} holds {len(uris)} images; at least 2 are needed", param_hint="IMAGES")
    backbone, writer = load_backbone(str(model), dtype=dtype), load_captioner(captioner)
    fit = Fit((Size(backbone.image_size, backbone.image_size),))
    left = []
    for indices, real in full_batches(len(uris), batch):
        pixels = [np.asarray(fit(decode_image(storage.read(uris[i]).data))) for i in indices]
        prompts = writer.describe([Image.fromarray(one) for one in pixels])
        latents = backbone.encode_image(to_images(pixels))
        left.append(
            unexplained(backbone, latents, backbone.encode_text(prompts), indices.tolist())[:real].float().cpu()
        )
    save_spectrum(measure_spectrum(torch.cat(left)), model)
    typer.echo(f"spectrum of {len(uris)} images: {model / FILE}")


if __name__ == "__main__":
    typer.run(spectrum)
