"""The typer application, made from the table in `commands`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from signedwire.cli import keys
from signedwire.cli.commands import COMMANDS, GROUPS, Command
from signedwire.cli.common_options import CommonOptions
from signedwire.cli.errors import report
from signedwire.cli.exit_codes import EVERY, ExitCode, epilog
from signedwire.cli.option_values import read_path
from signedwire.cli.output import escape, say_as_is, silence
from signedwire.cli.redaction import without_keys
from signedwire.cli.signals import ENDING_CODES, end_by_signal
from signedwire.environment import expand_home

__all__ = ["app"]


class _Group(TyperGroup):
    """The root command. It reports every exception of every command."""

    _as_json = False

    def main(self, *args: Any, **kwargs: Any) -> Any:
        given: Sequence[str] | None = args[0] if args else kwargs.get("args")
        self._as_json = "--json" in (sys.argv[1:] if given is None else given)
        _escape_logs()
        try:
            outcome = super().main(*args, **{**kwargs, "standalone_mode": False})
        except Exception as error:  # noqa: BLE001 - report() handles every kind
            outcome = report(error, as_json=self._as_json)
        code = outcome if isinstance(outcome, int) else 0
        try:
            sys.stdout.flush()
        except OSError as error:
            code = code or report(error, as_json=self._as_json)
            silence(sys.stdout)
        try:
            sys.stderr.flush()
        except OSError:
            silence(sys.stderr)  # or the interpreter would end with an exit code of its own
        if code in ENDING_CODES:
            end_by_signal(next(one for one in ENDING_CODES if one == code))
        sys.exit(code)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            # Printing --help and --version happens here; typer would end with exit code 1.
            raise typer.Exit(report(error)) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            # Caught here, before typer handles Ctrl-C and broken pipes differently.
            return report(error, as_json=self._as_json)


class _LogFormatter(logging.Formatter):
    """Escapes all of a record, and hides keys in it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(without_keys(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        shown = without_keys(super().formatException(ei))
        return "\n".join(map(escape, shown.split("\n")))


def _escape_logs() -> None:
    """Escape the warnings that Python prints for loggers without a handler.

    Without -v these are our warnings, and always those of other libraries, such as asyncio.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_LogFormatter("%(message)s"))


def _start_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("signedwire")
    # Set, not added to: one process may run several commands, as tests do.
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)


def _add(group: typer.Typer, name: str, command: Command) -> None:
    """Make a typer command whose parameters are the options of `command`."""
    options = command.options
    hints = copy.deepcopy(get_type_hints(options, include_extras=True))
    for name_ in options.unused:
        _hide(hints[name_])
    for hint in hints.values():
        _read_as_path(hint)
    fields = dataclasses.fields(options)
    common = {field.name for field in dataclasses.fields(CommonOptions)}
    # The options of this command come first, then the common ones.
    fields = tuple(sorted(fields, key=lambda field: field.name in common))

    def call(**values: Any) -> int:
        if values["verbose"]:
            _start_logging()
        keys.take_secrets()  # before anything is started that would inherit them
        try:
            return command.run({name: _expanded(value) for name, value in values.items()})
        finally:
            keys.forget_secrets()

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty
            if field.default is dataclasses.MISSING
            else field.default,
            annotation=hints[field.name],
        )
        for field in fields
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {field.name: hints[field.name] for field in fields}
    call.__doc__ = options.__doc__
    group.command(
        name,
        short_help=_summary(options.__doc__ or ""),
        epilog=epilog(options.exit_codes),
    )(call)


def _summary(text: str) -> str:
    """Return the first paragraph as one line, which the list of commands shows uncut."""
    return " ".join(text.partition("\n\n")[0].split())


def _hide(hint: Any) -> None:
    """Accept an option, and leave it out of the help of a command that does not use it."""
    for note in get_args(hint)[1:]:
        if isinstance(note, OptionInfo):
            note.hidden = True


def _read_as_path(hint: Any) -> None:
    """Make `read_path` the parser of a parameter that is annotated as a path.

    Typer's own parser reports a file that cannot be read as a usage error, and takes an
    empty text for the working directory.
    """
    kind, *notes = get_args(hint)
    if Path not in (kind, *get_args(kind)):
        return
    for note in notes:
        note.parser = read_path
        if isinstance(note, OptionInfo):
            note.metavar = note.metavar or "FILE"


def _expanded(value: Any) -> Any:
    """Return a value with `~` at the start of each path expanded, as in the configuration.

    A shell expands `~` only where a word begins: not in `--identity=~/key.pem`, nor in quotes.
    """
    if isinstance(value, Path):
        return expand_home(value)
    return list(map(_expanded, value)) if isinstance(value, list) else value


def _show_version(wanted: bool) -> None:
    if wanted:
        from signedwire import __version__

        typer.echo(f"signedwire {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Signed messages delivered to a key: no broker, no accounts.

    Start with `signedwire listen` in one terminal, and paste the `signedwire send` line
    that it prints into another. Options come after the command.
    """
    if context.invoked_subcommand is None:
        say_as_is(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def _build() -> typer.Typer:
    root = typer.Typer(
        cls=_Group,
        epilog=epilog(EVERY),
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback(invoke_without_command=True)(_root)
    for name, command in COMMANDS.items():
        _add(root, name, command)
    for name, (text, commands) in GROUPS.items():
        group = typer.Typer(rich_markup_mode=None, add_completion=False)
        root.add_typer(group, name=name, help=text)
        for word, command in commands.items():
            _add(group, word, command)
    return root


app: Final = _build()
