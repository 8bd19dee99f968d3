"""The `eim` command: each subcommand lives in its own module."""

import typer

from jobs import augment, compact, edit, evaluate, faces, mini, plan, report, spectrum, submit, sweep, verify

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)
app.command("plan")(plan.plan)
app.command("edit")(edit.edit)
app.command("sweep")(sweep.sweep)
app.command("augment")(augment.augment)
app.command("submit", context_settings=submit.PASSES_OPTIONS_ON)(submit.submit)
app.command("verify")(verify.verify)
app.command("compact")(compact.compact)
app.command("report")(report.report)
app.command("spectrum")(spectrum.spectrum)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(faces.app, name="faces")
app.add_typer(mini.app, name="mini")


@app.callback()
def main() -> None:
    """Edit images by direction in the joint space of a multimodal diffusion transformer."""


if __name__ == "__main__":
    app()
