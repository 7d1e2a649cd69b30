import click
from markupsafe import escape

click.echo(escape("<a boat>"))
