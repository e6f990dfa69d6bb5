"""The typer application, made from the dataclasses of `surface`."""

from __future__ import annotations

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

from signedwire.cli import evidence_surface, keys, store_surface, surface
from signedwire.cli.ending import ENDING_CODES, end_by_signal
from signedwire.cli.errors import report
from signedwire.cli.exit_codes import EVERY, ExitCode, epilog
from signedwire.cli.output import escape, say_as_is, silence
from signedwire.cli.redaction import without_keys
from signedwire.cli.values import read_path
from signedwire.environment import expand_home

__all__ = ["app"]


class _Group(TyperGroup):
    """The root command: every exception of every command ends here."""

    _as_json = False

    def main(self, *args: Any, **kwargs: Any) -> Any:
        given: Sequence[str] | None = args[0] if args else kwargs.get("args")
        self._as_json = "--json" in (sys.argv[1:] if given is None else given)
        _escape_logs()
        try:
            outcome = super().main(*args, **{**kwargs, "standalone_mode": False})
        except Exception as error:  # noqa: BLE001 - report() is where all of them go
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
            silence(sys.stderr)  # else the interpreter ends with a code of its own
        if code in ENDING_CODES:
            end_by_signal(next(one for one in ENDING_CODES if one == code))
        sys.exit(code)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            # Printing --help and --version is a part of this; typer would end with 1.
            raise typer.Exit(report(error)) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
            # Here, because typer has its own way with Ctrl-C and broken pipes.
            return report(error, as_json=self._as_json)


class _LogFormatter(logging.Formatter):
    """Escapes all of a record, and hides keys in it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(without_keys(super().formatMessage(record)))

    def formatException(self, ei: Any) -> str:
        told = without_keys(super().formatException(ei))
        return "\n".join(map(escape, told.split("\n")))


def _escape_logs() -> None:
    """Escape the warnings that Python itself prints for all who have no handler.

    Without -v those are ours, and always those of other libraries, such as asyncio.
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


def _add(group: typer.Typer, name: str, command: type[surface.Command]) -> None:
    """Make a typer command whose parameters are the fields of `command`."""
    hints = get_type_hints(command, include_extras=True)
    for hint in hints.values():
        _read_as_path(hint)
    fields = dataclasses.fields(command)
    common = {field.name for field in dataclasses.fields(surface.Command)}
    # A command's own options first, then those that all have.
    fields = tuple(sorted(fields, key=lambda field: field.name in common))

    def call(**values: Any) -> int:
        chosen = command(**{name: _expanded(value) for name, value in values.items()})
        if chosen.verbose:
            _start_logging()
        keys.take_secrets()  # before anything is started that would inherit them
        try:
            return chosen.run()
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
    call.__doc__ = command.__doc__
    group.command(name, epilog=epilog(command.exit_codes))(call)


def _read_as_path(hint: Any) -> None:
    """Have the parameter that is annotated so read by `read_path`, where it is a path.

    Typer's own way reports a file that cannot be read as a wrong command line, and takes an
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
    """A value with `~` at the start of each path in it expanded, as in the configuration.

    A shell does so only where a word begins: not in `--identity=~/key.pem`, nor in quotes.
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


def _group() -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, add_completion=False)


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
    identity, configuration = _group(), _group()
    root.add_typer(identity, name="id", help="Make an identity, or show its DID.")
    _add(identity, "new", surface.IdNew)
    _add(identity, "show", surface.IdShow)
    for name, command in surface.COMMANDS.items():
        _add(root, name, command)
    for name, (text, commands) in store_surface.GROUPS.items():
        group = _group()
        root.add_typer(group, name=name, help=text)
        for word, command in commands.items():
            _add(group, word, command)
    root.add_typer(configuration, name="config", help="Show or check the configuration.")
    _add(configuration, "show", surface.ConfigShow)
    _add(configuration, "check", surface.ConfigCheck)
    evidence = _group()
    root.add_typer(evidence, name="evidence", help="Check or show an evidence log.")
    _add(evidence, "verify", evidence_surface.EvidenceVerify)
    _add(evidence, "show", evidence_surface.EvidenceShow)
    return root


app: Final = _build()
