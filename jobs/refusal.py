"""How a command refuses: the error in red, without a traceback, and exit code 2."""

from typing import NoReturn

import typer
from rich.console import Console


def refuse(error: Exception, code: int = 2) -> NoReturn:
    """Tell what is wrong on stderr and end the command; another code is of what was begun."""
    Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
    raise typer.Exit(code) from None
