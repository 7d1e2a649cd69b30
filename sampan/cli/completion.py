"""Shell completion: the scripts, and the hidden command that they ask."""

from __future__ import annotations

from sampan.cli.command import PROGRAM, Command
from sampan.cli.commands import ALIASES, COMMANDS, GROUPS, HIDDEN
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.flags import Flag, Options
    from sampan.cli.session import Session

_BASH = """# bash completion for sampan: source <(sampan completion bash)
_sampan_complete() {
    local IFS=$'\\n'
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    local found
    found=$(sampan __complete "${words[@]}" 2>/dev/null) || return
    if [ "${found##*$'\\n'}" = ":files" ]; then
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        compopt -o filenames 2>/dev/null
        return
    fi
    COMPREPLY=($(printf '%s\\n' "$found" | cut -f1 | sed 's/$/ /'))
    compopt -o nospace 2>/dev/null
}
complete -F _sampan_complete sampan
"""
_ZSH = """#compdef sampan
# zsh completion for sampan: sampan completion zsh > "${fpath[1]}/_sampan"
_sampan() {
    local -a found described
    local line
    found=("${(@f)$(sampan __complete "${words[@]:1:$((CURRENT-1))}" 2>/dev/null)}")
    if [[ "${found[-1]}" == ":files" ]]; then
        _files
        return
    fi
    for line in "${found[@]}"; do
        [[ -n "$line" ]] && described+=("${${line%%$'\\t'*}//:/\\\\:}:${line#*$'\\t'}")
    done
    _describe sampan described
}
if [ "$funcstack[1]" = "_sampan" ]; then
    _sampan "$@"
else
    compdef _sampan sampan
fi
"""
_FISH = """# fish completion for sampan: sampan completion fish | source
function __sampan_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found (sampan __complete $words[2..-1] 2>/dev/null)
    if test "$found[-1]" = ":files"
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\\n' $found
end
complete -c sampan -f -a '(__sampan_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

# What the arguments of a command name.
_CONTAINERS, _IMAGES, _NETWORKS, _VOLUMES, _FILES = (
    "containers",
    "images",
    "networks",
    "volumes",
    ":files",
)
_ARGUMENTS = {
    **dict.fromkeys(
        [
            "attach",
            "commit",
            "diff",
            "exec",
            "export",
            "inspect",
            "kill",
            "logs",
            "pause",
            "port",
            "rename",
            "restart",
            "rm",
            "start",
            "stats",
            "stop",
            "top",
            "unpause",
            "update",
            "wait",
        ],
        _CONTAINERS,
    ),
    "run": _IMAGES,
    "create": _IMAGES,
    "build": _FILES,
    "load": _FILES,
    "import": _FILES,
    "cp": _CONTAINERS,
}
_GROUP_ARGUMENTS = {"image": _IMAGES, "network": _NETWORKS, "volume": _VOLUMES}


def completion(session: Session, options: Options, arguments: list[str]) -> int:
    """Print a shell's completion script."""
    shell = arguments[0]
    if shell not in _SCRIPTS:
        raise Failure(f"unknown shell {shell!r}: it must be bash, zsh or fish")
    session.say(_SCRIPTS[shell].removesuffix("\n"))
    return 0


class _Complete(Command):
    """Takes all words as they are: they are another command's."""

    __slots__ = ()

    def run(self, session: Session, words: Sequence[str]) -> int:
        for word, description in candidates(session, list(words) or [""]):
            session.say(f"{word}\t{description}" if description else word)
        return 0


def candidates(session: Session, words: list[str]) -> list[tuple[str, str]]:
    """What the last of ``words`` may become, with descriptions."""
    *before, last = words
    path = [word for word in before if not word.startswith("-")]
    if not path:
        return _matching(_first_words(), last)
    name = path[0]
    if name in GROUPS and len(path) == 1:
        found = [
            (key.partition(" ")[2], short)
            for key, (_, short) in COMMANDS.items()
            if key.startswith(f"{name} ") and key not in HIDDEN
        ]
        return _matching(found, last)
    spoken = " ".join(path[:2]) if name in GROUPS else name
    key = ALIASES.get(spoken, spoken)
    if key not in COMMANDS:
        return []
    from sampan.cli.main import command_of

    flags = command_of(key).flags
    if last.startswith("-"):
        return _matching([(f"--{flag.name}", _first_line(flag)) for flag in flags], last)
    if before and _wants_value(flags, before[-1]):
        return [(":files", "")]
    return _arguments(session, key, last)


def _first_line(flag: Flag) -> str:
    return flag.help.partition("\n")[0]


def _first_words() -> list[tuple[str, str]]:
    top = [(alias, COMMANDS[key][1]) for alias, key in ALIASES.items() if " " not in alias]
    top += [
        (key, short) for key, (_, short) in COMMANDS.items() if " " not in key and key not in HIDDEN
    ]
    return sorted([*top, *GROUPS.items()])


def _wants_value(flags: Sequence[Flag], word: str) -> bool:
    return any(word in (f"--{flag.name}", f"-{flag.short}") and flag.kind for flag in flags)


def _matching(found: list[tuple[str, str]], prefix: str) -> list[tuple[str, str]]:
    return [(word, short) for word, short in found if word.startswith(prefix)]


def _arguments(session: Session, key: str, prefix: str) -> list[tuple[str, str]]:
    group, _, verb = key.rpartition(" ")
    kind = _GROUP_ARGUMENTS.get(group) or _ARGUMENTS.get(verb, "")
    if verb in ("build", "load", "import"):
        kind = _FILES
    if kind == _FILES:
        return [(_FILES, "")]
    found: list[tuple[str, str]] = []
    if kind == _CONTAINERS:
        from sampan.cli.ps import names_of

        for one in session.api.get("/containers/json", {"all": True}):
            found.append((names_of(one), f"{one['Image']} {one['Status']}"))
    elif kind == _IMAGES:
        for one in session.api.get("/images/json"):
            found += [(tag, one["Id"][7:19]) for tag in one.get("RepoTags") or []]
    elif kind == _NETWORKS:
        found = [(one["Name"], one["Driver"]) for one in session.api.get("/networks")]
    elif kind == _VOLUMES:
        volumes = session.api.get("/volumes").get("Volumes") or []
        found = [(one["Name"], one["Driver"]) for one in volumes]
    return _matching(found, prefix)


COMPLETION = Command(
    "SHELL",
    f"Print the completion script of a shell: bash, zsh or fish.\n"
    f"For bash: source <({PROGRAM} completion bash)",
    completion,
    least=1,
    most=1,
)
COMPLETE = _Complete("", "Print what the last word may become", completion)
