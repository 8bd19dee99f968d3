"""`eim faces`: images of the benchmark world."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Images of the benchmark world.")


@app.callback()
def main() -> None:
    """Images of the benchmark world."""


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="the folder to write to")],
    count: Annotated[int, typer.Option(min=1, help="how many faces")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="which faces")] = 0,
    correlated: Annotated[bool, typer.Option(help="draw attributes together as they come in life")] = False,
) -> None:
    """Render faces to face-0000.png and on; files that are there stay."""
    from eim_ops.faces.render import render as render_face
    from eim_ops.mini.face_set import draw_faces
    from pipeline.decode import encode_png

    out.mkdir(parents=True, exist_ok=True)
    made = 0
    for index, face in enumerate(draw_faces(seed, count, correlated)):
        path = out / f"face-{index:04d}.png"
        if not path.exists():
            partial = path.with_suffix(".partial")
            partial.write_bytes(encode_png(render_face(face)))
            partial.replace(path)
            made += 1
    typer.echo(f"{made} faces rendered, {count - made} were there: {out}")
