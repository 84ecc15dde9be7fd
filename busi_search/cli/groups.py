"""Commands that import what they need when they run, and the group that knows them by name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from busi_search.cli.global_options import GLOBAL_OPTIONS, write_options


def load(path: str) -> Callable[..., object]:
    """Import a command or a function.

    Args:
        path: ``package.module.name``.
    """
    module, _, name = path.rpartition(".")
    found: object = getattr(import_module(module), name)
    assert callable(found), f"{path} is a command or a function"
    return found


def deferred(module: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Let a command do its work in ``module``, which is imported only when the command runs.

    The help, a typing error and a shell that completes a word need a command's options at once,
    and none of the seconds that PyTorch and MLflow take.

    The decorated function is called first: it does what cannot wait for the imports, mostly
    nothing. Then comes the function of the same name in ``module``, with the context and the
    command's options.
    """

    def decorate(at_once: Callable[[], None]) -> Callable[..., None]:
        path = f"{module}.{at_once.__name__}"

        @functools.wraps(at_once)
        def call(**options: object) -> None:
            at_once()
            load(path)(click.get_current_context(), **options)

        return call

    return decorate


class Command(click.Command):
    """A command that takes the global options after its name as well."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the global options."""
        return [*super().get_params(ctx), *GLOBAL_OPTIONS]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the global ones."""
        write_options(self, ctx, formatter)


class Group(click.Group):
    """A group that takes the global options, as each of its commands does."""

    command_class = Command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the group's own parameters and the global options."""
        return [*super().get_params(ctx), *GLOBAL_OPTIONS]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the group's own options, the global ones, then its commands."""
        write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


@dataclass(frozen=True)
class Row:
    """What a group knows of a command before it is imported.

    Attributes:
        name: as it is typed.
        module: where it is written, under its name with underscores.
        short_help: what it does, in a sentence that fits on a line of the group's help.
    """

    name: str
    module: str
    short_help: str


class LazyGroup(Group):
    """A group that shows its commands in sections and imports each one when it is used."""

    sections: Mapping[str, Sequence[Row]] = {}

    def add_sections(self, sections: Mapping[str, Sequence[Row]]) -> None:
        """Add commands, under headings, in the order in which people need them."""
        self.sections = sections
        for row in self._rows():
            # Stands for the command until that is imported: Click suggests the nearest of these.
            self.add_command(click.Command(row.name, short_help=row.short_help))

    def _rows(self) -> list[Row]:
        return [row for rows in self.sections.values() for row in rows]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the sections."""
        return [row.name for row in self._rows()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name; None if there is none."""
        for row in self._rows():
            if row.name == cmd_name:
                command = load(f"{row.module}.{cmd_name.replace('-', '_')}")
                assert isinstance(command, Command | Group), f"{cmd_name} takes global options"
                command.short_help = row.short_help
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every section; no command is imported."""
        for heading, rows in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(row.name, row.short_help) for row in rows])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command or an option; no command is imported."""
        names = [
            CompletionItem(row.name, help=row.short_help)
            for row in self._rows()
            if row.name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)
