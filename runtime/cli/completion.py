"""`edgectl completion SHELL`: print a completion script, made from the command line itself."""

from __future__ import annotations

import argparse

from runtime.cli import Commands


def register(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a shell completion script",
        epilog="bash: source <(edgectl completion bash) · "
        'zsh: edgectl completion zsh > "${fpath[1]}/_edgectl"',
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(homeless=True, run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    import shtab

    from runtime.cli import parser

    print(shtab.complete(parser(), shell=arguments.shell))
    return 0
