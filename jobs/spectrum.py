"""`eim spectrum MODEL IMAGES`: measure the power spectrum of a model's latents, by which HSDS is preconditioned."""

from pathlib import Path
from typing import Annotated

import typer


def spectrum(
    model: Annotated[Path, typer.Argument(help="a local model folder; the spectrum is put into it")],
    images: Annotated[str, typer.Argument(help="a folder or s3:// prefix of images like those to be edited")],
    count: Annotated[int, typer.Option(min=2, help="how many of them")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="images a call")] = 16,
) -> None:
    """Measure the power spectrum of a model's latents and keep it beside the weights."""
    import torch

    from eim_ops.edit import full_batches, to_images
    from eim_ops.identify.spectrum import FILE, measure_spectrum, save_spectrum
    from eim_ops.load import load_backbone
    from pipeline import storage
    from pipeline.decode import decode_image
    from pipeline.manifest import IMAGE_SUFFIXES

    if not model.is_dir():
        raise typer.BadParameter(f"{model} is no folder; download the model to one first", param_hint="MODEL")
    entries = (entry.uri for entry in storage.list_entries(storage.normalise(images)))
    uris = [uri for uri in entries if Path(uri).suffix.lower() in IMAGE_SUFFIXES][:count]
    if len(uris) < 2:
        raise typer.BadParameter(f"{images} holds {len(uris)} images; at least 2 are needed", param_hint="IMAGES")
    backbone = load_backbone(str(model))
    latents = []
    for indices, real in full_batches(len(uris), batch):
        pixels = [decode_image(storage.read(uris[i]).data, backbone.image_size) for i in indices]
        latents.append(backbone.encode_image(to_images(pixels))[:real].float().cpu())
    save_spectrum(measure_spectrum(torch.cat(latents)), model)
    typer.echo(f"spectrum of {len(uris)} images: {model / FILE}")


if __name__ == "__main__":
    typer.run(spectrum)
