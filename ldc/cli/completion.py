"""Completion by the Tab key, for three shells. The words come from the definition of the command line itself.

Rule 1: the printed script starts no program, so that a key press costs nothing.
"""

import argparse

from ldc.venues import VENUES

SHELLS = ("bash", "fish", "zsh")

_BASH = """\
_ldc() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words
    case $before in
        --exchange) words="{exchanges}" ;;
        *) case ${{COMP_WORDS[1]}} in
{cases}
            *) words="{commands}" ;;
        esac ;;
    esac
    if [ "$COMP_CWORD" = 1 ]; then words="{commands}"; fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _ldc ldc
"""


def completion_of(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that makes this shell complete the commands and options of the parser."""
    words = words_of(parser)
    if shell == "fish":
        lines = ["complete -c ldc -f"]
        for command, (what, options) in words.items():
            lines.append(f"complete -c ldc -n __fish_use_subcommand -a {command} -d '{what}'")
            for option in options:
                arguments = f" -x -a '{' '.join(VENUES)}'" if option == "--exchange" else ""
                lines.append(f"complete -c ldc -n '__fish_seen_subcommand_from {command}' -l {option[2:]}{arguments}")
        return "\n".join(lines) + "\n"
    cases = "\n".join(f'            {name}) words="{" ".join(options)}" ;;' for name, (_, options) in words.items())
    script = _BASH.format(commands=" ".join(words), exchanges=" ".join(VENUES), cases=cases)
    return script if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{script}"


def words_of(parser: argparse.ArgumentParser) -> dict[str, tuple[str, list[str]]]:
    """Return each command with what it does and its options: the long names, without those that help hides."""
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    meanings = {action.dest: str(action.help) for action in commands._choices_actions}
    found: dict[str, tuple[str, list[str]]] = {}
    for name, command in commands.choices.items():
        shown = [action for action in command._actions if action.help != argparse.SUPPRESS]
        options = [next((o for o in action.option_strings if o.startswith("--")), "") for action in shown]
        found[name] = meanings[name], [option for option in options if option]
    return found
