"""The table of commands: the options of each, and the function that does its work.

A command's module is imported when the command runs. So `--help` and `--version` do not
wait for the modules of commands that do not run, some of which need an extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple

from signedwire.cli.common_options import CommonOptions
from signedwire.cli.file_options import (
    ConfigCheckOptions,
    ConfigShowOptions,
    EvidenceShowOptions,
    EvidenceVerifyOptions,
    IdNewOptions,
    IdShowOptions,
    VerifyOptions,
)
from signedwire.cli.peer_options import BenchOptions, ListenOptions, PeersOptions, PingOptions
from signedwire.cli.request_options import AnswerOptions, RequestOptions
from signedwire.cli.send_options import SendOptions
from signedwire.cli.store_options import (
    DeadDropOptions,
    DeadListOptions,
    DeadRetryOptions,
    DeadShowOptions,
    OutboxDropOptions,
    OutboxExportOptions,
    OutboxListOptions,
    OutboxRetryOptions,
    OutboxShowOptions,
)

__all__ = ["COMMANDS", "GROUPS", "Command", "all_commands"]


class Command(NamedTuple):
    """One command of the command line."""

    options: type[CommonOptions]
    """The dataclass of its options; the docstring is the help."""
    module: str
    """The module of `signedwire.cli` that does the work."""
    function: str
    """The function in `module`: takes the options, and returns the exit code."""

    def run(self, values: dict[str, Any]) -> int:
        """Run the command with these values of its options, and return its exit code.

        Raises:
            Exception: the error of the command.
        """
        work = getattr(import_module(f"signedwire.cli.{self.module}"), self.function)
        return int(work(self.options(**values)))


class Group(NamedTuple):
    """Several commands with one first word."""

    help: str
    commands: dict[str, Command]


COMMANDS: Final = {
    "listen": Command(ListenOptions, "listen_command", "listen"),
    "send": Command(SendOptions, "send_command", "send"),
    "request": Command(RequestOptions, "request_command", "request"),
    "answer": Command(AnswerOptions, "answer_command", "answer"),
    "ping": Command(PingOptions, "ping_commands", "ping"),
    "peers": Command(PeersOptions, "ping_commands", "peers"),
    "verify": Command(VerifyOptions, "verify_command", "verify"),
    "bench": Command(BenchOptions, "bench_command", "bench"),
}
"""The commands of the first level, in the order of the help."""

GROUPS: Final = {
    "id": Group(
        "Make an identity, or show its DID.",
        {
            "new": Command(IdNewOptions, "id_commands", "new"),
            "show": Command(IdShowOptions, "id_commands", "show"),
        },
    ),
    "outbox": Group(
        "See and change what waits to be sent.",
        {
            "list": Command(OutboxListOptions, "outbox_commands", "list_messages"),
            "show": Command(OutboxShowOptions, "outbox_commands", "show"),
            "retry": Command(OutboxRetryOptions, "outbox_commands", "retry"),
            "drop": Command(OutboxDropOptions, "outbox_commands", "drop"),
            "export": Command(OutboxExportOptions, "outbox_commands", "export_messages"),
        },
    ),
    "dead": Group(
        "See and change what was refused or given up.",
        {
            "list": Command(DeadListOptions, "dead_letter_commands", "list_letters"),
            "show": Command(DeadShowOptions, "dead_letter_commands", "show"),
            "retry": Command(DeadRetryOptions, "dead_letter_commands", "retry"),
            "drop": Command(DeadDropOptions, "dead_letter_commands", "drop"),
        },
    ),
    "config": Group(
        "Show or check the configuration.",
        {
            "show": Command(ConfigShowOptions, "config_commands", "show"),
            "check": Command(ConfigCheckOptions, "config_commands", "check"),
        },
    ),
    "evidence": Group(
        "Check or show an evidence log.",
        {
            "verify": Command(EvidenceVerifyOptions, "evidence_commands", "verify"),
            "show": Command(EvidenceShowOptions, "evidence_commands", "show"),
        },
    ),
}
"""The groups and their commands, in the order of the help."""


def all_commands() -> dict[str, Command]:
    """Return every command by its words, such as "config show"."""
    grouped = {
        f"{name} {word}": command
        for name, group in GROUPS.items()
        for word, command in group.commands.items()
    }
    return {**COMMANDS, **grouped}
