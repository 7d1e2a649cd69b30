"""``completion``: the scripts that have a shell ask us what a word may become."""

from __future__ import annotations

from sampan.cli.command import PROGRAM, Command
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

# What the hidden command answers is told in sampan.cli.complete.

_BASH = r"""# bash completion for sampan: source <(sampan completion bash)
_sampan_complete() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} word last piece kept flag= kind=
    local -a words=() found=() files=()
    local program=$1
    # Of an alias only we know how to complete it.
    [[ $(type -t "$1") == file ]] || program=sampan
    # Bash parts words at : and = too; what no space is between belongs together.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if [[ ${#words[@]} -eq 0 || $line == [[:space:]]* ]]; then
            line=${line#"${line%%[![:space:]]*}"}
            words+=("$word")
        else
            words[${#words[@]}-1]+=$word
        fi
        line=${line#"$word"}
    done
    last=${words[${#words[@]}-1]}
    mapfile -t found < <("$program" __complete "${words[@]:1}" 2>/dev/null)
    if [[ ${#found[@]} -gt 0 && ${found[${#found[@]}-1]} == :f* ]]; then
        kind=${found[${#found[@]}-1]}
        unset "found[${#found[@]}-1]"
    fi
    # It puts the answer in the place of the last part alone.
    piece=${COMP_WORDS[COMP_CWORD]}
    [[ $piece == [:=]* ]] && piece=
    kept=${last%"$piece"}
    COMPREPLY=()
    for word in "${found[@]%%$'\t'*}"; do
        COMPREPLY+=("${word#"$kept"}")
    done
    if [[ -n $kind ]]; then
        [[ $last == --*=* ]] && flag=${last%%=*}=
        last=${last#"$flag"}
        [[ $kind == :files ]] && mapfile -t files < <(compgen -f -- "$last")
        [[ $kind == :folders ]] && mapfile -t files < <(compgen -d -- "$last")
        [[ ${#found[@]} -eq 0 ]] && compopt -o filenames 2>/dev/null
        for word in "${files[@]}"; do
            [[ ${#found[@]} -gt 0 && -d $word ]] && word+=/
            word=$flag$word
            COMPREPLY+=("${word#"$kept"}")
        done
    fi
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[:=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _sampan_complete sampan
"""
_ZSH = r"""#compdef sampan
# zsh completion for sampan: sampan completion zsh > "${fpath[1]}/_sampan"
_sampan() {
    local line word text kind
    local -a found closed going
    found=("${(@f)$("${words[1]}" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    if [[ ${found[-1]} == (:files|:folders) ]]; then
        kind=${found[-1]}
        found[-1]=()
    fi
    for line in $found; do
        word=${line%%$'\t'*}
        text=${${line#"$word"}#$'\t'}
        line=${word//:/\\:}${text:+:$text}
        if [[ $word == *[:=/] ]]; then
            going+=("$line")
        else
            closed+=("$line")
        fi
    done
    (( $#closed )) && _describe sampan closed
    (( $#going )) && _describe sampan going -S ''
    if [[ -n $kind ]]; then
        [[ $PREFIX == --*=* ]] && compset -P 1 '*='
        if [[ $kind == :folders ]]; then _files -/; else _files; fi
    fi
}
if [ "$funcstack[1]" = "_sampan" ]; then
    _sampan "$@"
else
    compdef _sampan sampan
fi
"""
_FISH = r"""# fish completion for sampan: sampan completion fish | source
function __sampan_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l found ($program __complete $words "$last" 2>/dev/null)
    switch "$found[-1]"
        case :files :folders
            set -l prefix (string match -r -- '^--[^=]*=' "$last")
            set -l rest (string replace -r -- '^--[^=]*=' '' "$last")
            set -l paths
            if test "$found[-1]" = :files
                set paths (__fish_complete_path "$rest")
            else
                set paths (__fish_complete_directories "$rest")
            end
            set -e found[-1]
            for path in $paths
                set -a found "$prefix$path"
            end
    end
    printf '%s\n' $found
end
complete -c sampan -f -a '(__sampan_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(session: Session, options: Options, arguments: list[str]) -> int:
    """Print a shell's completion script."""
    shell = arguments[0]
    if shell not in _SCRIPTS:
        raise Failure(f"unknown shell {shell!r}: it must be bash, zsh or fish")
    session.say(_SCRIPTS[shell].removesuffix("\n"))
    return 0


COMPLETION = Command(
    "SHELL",
    f"Print the completion script of a shell: bash, zsh or fish.\n"
    f"For bash: source <({PROGRAM} completion bash)",
    completion,
    least=1,
    most=1,
)
