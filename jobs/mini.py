"""`eim mini`: the small shipped models, measured and trained."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="The small shipped models.")


class MiniModel(StrEnum):
    """What can be trained; mini-dit needs the VAE first, and the decoder is the VAE's, trained on alone."""

    vae = "vae"
    decoder = "decoder"
    dit = "dit"
    vlm = "vlm"
    judge = "judge"


class Device(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
def check(
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Measure the shipped models on held-out faces."""
    from eim_ops.mini.check import check as measure

    figures = measure()
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    for name, figure in figures.items():
        typer.echo(f"{name}: {figure}")


@app.command()
def train(
    model: Annotated[MiniModel, typer.Argument(help="which model")],
    work: Annotated[Path, typer.Option(help="where checkpoints and rendered faces live")] = Path("out/mini"),
    steps: Annotated[int | None, typer.Option(min=1, help="how many steps in all; the model's own by default")] = None,
    from_shipped: Annotated[bool, typer.Option(help="mini-dit only: start from the shipped weights")] = False,
    device: Annotated[Device, typer.Option(help="a GPU sees more faces, in larger batches")] = Device.auto,
) -> None:
    """Train one of the shipped models and put it in the shipped one's place; run again after a stop, it goes on."""
    from eim_ops.mini import train_dit, train_judge, train_vae, train_vlm
    from eim_ops.named_models import pick_device

    chosen = pick_device(device.value)
    if model is MiniModel.decoder:
        train_vae.refine(work, chosen, steps)
        return
    if model is MiniModel.dit:
        train_dit.main(work, chosen, steps, from_shipped)
        return
    if from_shipped:
        raise typer.BadParameter(f"{model.value} is trained from nothing", param_hint="--from-shipped")
    {MiniModel.vae: train_vae, MiniModel.vlm: train_vlm, MiniModel.judge: train_judge}[model].main(work, chosen, steps)


if __name__ == "__main__":
    app()
