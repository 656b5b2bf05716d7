"""`fastcnn operations`: every operation beside its oracle, as a table."""

from pathlib import Path

import click

from fastcnn.cli.options import OutputFile

EXAMPLES = """
\b
Examples:
  fastcnn operations
  fastcnn operations --out docs/operations.md
"""


@click.command(epilog=EXAMPLES)
@click.option("--out", type=OutputFile(), help="Write the table here (Markdown).")
def operations(out: Path | None) -> None:
    """Compare every operation with PyTorch in float64, or with its equation, and print the errors.

    Needs PyTorch: pip install "fastcnn[oracle]".
    """
    import importlib.util

    from fastcnn.bench.oracles.table import lines
    from fastcnn.errors import DataError
    from fastcnn.files import write_atomically

    if importlib.util.find_spec("torch") is None:
        raise click.ClickException('PyTorch is the oracle, and is not installed: pip install "fastcnn[oracle]".')
    page = []
    for line in lines():
        page.append(line)
        click.echo(line)
    if out is not None:
        try:
            write_atomically(out, ("\n".join(page) + "\n").encode())
        except OSError as error:
            raise DataError(f"{out} cannot be written: {error.strerror or error}.") from None
        click.echo(f"wrote {out}")
