"""`progdistill completion`: a script that completes commands and options in a shell."""

import argparse
from collections.abc import Iterator

from progdistill.cli.common import Verbs, described
from progdistill.config.presets import PRESETS
from progdistill.data.catalog import CATALOG

_DATASETS = "sh -c 'ls \"${PROGDISTILL_DATA:-.progdistill/data}\" 2>/dev/null'"
_RUNS = "sh -c 'ls runs 2>/dev/null'"
"""Commands that list prepared datasets, and the runs of this folder; importing this package would take too long."""

SHELLS = ("bash", "zsh", "fish")
HOW = """add this line to the start-up file of your shell:
  bash   eval "$(progdistill completion bash)"          in ~/.bashrc
  zsh    eval "$(progdistill completion zsh)"           in ~/.zshrc, after compinit
  fish   progdistill completion fish | source           in ~/.config/fish/config.fish"""

_BASH = """_progdistill() {{
    local words="${{COMP_WORDS[*]:1:COMP_CWORD-1}}" current="${{COMP_WORDS[COMP_CWORD]}}" known
    case "$words" in
{values}
{cases}
        *) known="{top}" ;;
    esac
    COMPREPLY=($(compgen -W "$known" -- "$current"))
    [[ ${{#COMPREPLY[@]}} -gt 0 || $current == -* ]] || COMPREPLY=($(compgen -f -- "$current"))
}}
complete -o filenames -F _progdistill progdistill
"""


def add_parser(verbs: Verbs, whole: argparse.ArgumentParser) -> None:
    """Add the verb; `whole` is the parser of all commands."""
    text = "print a script that completes commands and options in your shell"
    parser = verbs.add_parser("completion", **{**described(text), "epilog": HOW})
    parser.add_argument("shell", choices=SHELLS)

    def run(args: argparse.Namespace) -> int:
        print(script(whole, args.shell), end="")
        return 0

    parser.set_defaults(run=run)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell, with the words that may follow each verb."""
    words = dict(_words(parser))
    if shell == "fish":
        return "".join(_fish(words, _values(parser)))
    top = " ".join(words.pop(()))
    # Longer paths first: `checkpoints list` before `checkpoints`.
    paths = sorted(words, key=len, reverse=True)
    cases = "\n".join(f'        "{" ".join(path)}"*) known="{" ".join(words[path])}" ;;' for path in paths)
    known = {f"*{option}": value for option, value in _values(parser).items()}
    known |= {f"{verb}*": f"{' '.join(words[verb,])} $({_RUNS})" for verb in ("watch", "report", "compare")}
    values = "\n".join(f'        {pattern}) known="{value}" ;;' for pattern, value in known.items())
    bash = _BASH.format(cases=cases, top=top, values=values)
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def _words(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The verbs and options that may follow each path of verbs."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    visible = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = [name for action in visible for name in action.option_strings if name.startswith("--")]
    words = [str(word) for action in visible if not action.option_strings for word in action.choices or ()]
    yield path, [*words, *options]
    for group in groups:
        for verb, inner in group.choices.items():
            yield from _words(inner, (*path, verb))


def _values(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What may follow each option that takes one of a few words: these, and commands in $(…) that list more."""
    found = {
        "--dataset": f"{' '.join(CATALOG)} $({_DATASETS})",
        "--origin-run-id": f"$({_RUNS})",
        "--preset": " ".join(PRESETS),
    }
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= _values(inner)
        elif action.option_strings and action.choices:
            found[action.option_strings[-1]] = " ".join(map(str, action.choices))
    return found


def _fish(words: dict[tuple[str, ...], list[str]], values: dict[str, str]) -> Iterator[str]:
    for option, value in values.items():
        listed = value.replace("$(", "(").replace("'", "\\'")
        yield f"complete -c progdistill -l {option[2:]} -xa '{listed}'\n"
    runs = _RUNS.replace("'", "\\'")
    yield f"complete -c progdistill -n '__fish_seen_subcommand_from watch report compare' -fa '({runs})'\n"
    for path, known in words.items():
        seen = " ".join(f"__fish_seen_subcommand_from {verb};" for verb in path).replace("; __", "; and __")
        condition = f" -n '{seen.rstrip(';')}'" if path else " -n __fish_use_subcommand"
        for word in known:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            yield f"complete -c progdistill{condition} {kind}\n"
