"""`edgectl completion SHELL`: print a completion script, made from the command line itself."""

from __future__ import annotations

import argparse

from runtime.cli import Commands


def register(commands: Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a shell completion script",
        epilog="bash: source <(edgectl completion bash) · "
        'zsh: edgectl completion zsh > "${fpath[1]}/_edgectl" · '
        "fish: edgectl completion fish > ~/.config/fish/completions/edgectl.fish",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh", "fish"))
    completion.set_defaults(homeless=True, run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    from runtime.cli import fish, parser

    if arguments.shell == "fish":
        print(fish.script(parser()), end="")
        return 0
    import shtab

    print(shtab.complete(parser(), shell=arguments.shell))
    return 0
