"""Pages of the documentation that are made from the code: mkdocs calls this as a hook.

The reference of the command line comes from the commands themselves, that of the library from its
docstrings; the front page is the README.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from sampan.cli import helptext
from sampan.cli.command import PROGRAM, Command
from sampan.cli.commands import COMMANDS, GROUPS, HIDDEN
from sampan.cli.flags import Flag
from sampan.cli.main import GLOBAL_FLAGS, command_of, spellings

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    ("Library", "library.md"),
    ("Hub", "hub.md"),
    ("Security", "security.md"),
    ("Logs", "logging.md"),
    ("User namespaces", "user-namespaces.md"),
    ("Reporting a problem", "diagnose.md"),
    ("Compatibility", "compatibility.md"),
    ("Rootless", "rootless.md"),
    ("Architecture", "architecture.md"),
)
MODULES = {
    "client": ("The client", ("sampan.client", "sampan.client.client")),
    "containers": ("Containers", ("sampan.client.containers",)),
    "images": ("Images", ("sampan.client.images",)),
    "values": ("Values", ("sampan.client.models",)),
    "asyncio": (
        "On an event loop",
        ("sampan.client.aio.client", "sampan.client.aio.containers", "sampan.client.aio.images"),
    ),
    "errors": ("Exceptions", ("sampan.errors", "sampan.client.failures")),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay out the navigation from what there is."""
    docs = Path(config.docs_dir)
    groups = sorted({*GROUPS, "other"})
    decisions = sorted(path.name for path in (docs / "decisions").glob("*.md"))
    nav: list[Any] = [{"sampan": "index.md"}]
    nav += [{title: name} for title, name in PAGES if (docs / name).exists()]
    known = {name for _, name in PAGES}
    nav += [path.name for path in sorted(docs.glob("*.md")) if path.name not in known]
    nav.append({"Command line": ["cli/index.md", *({name: f"cli/{name}.md"} for name in groups)]})
    nav.append(
        {"Library reference": [{title: f"api/{name}.md"} for name, (title, _) in MODULES.items()]}
    )
    nav.append({"Decisions": [f"decisions/{name}" for name in decisions]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {"index.md": _front(), "cli/index.md": _overview()}
    made |= {f"cli/{group}.md": _group(group) for group in (*GROUPS, "other")}
    made |= {f"api/{name}.md": _reference(*of) for name, of in MODULES.items()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show what docstrings refer to by a role (``:meth:``) as code alone."""
    return re.sub(r":(?:meth|class|func|data|attr|mod|exc):(?=<code>)", "", html)


def _front() -> str:
    text = (ROOT / "README.md").read_text()
    text = text.replace("[decisions, with their measurements](docs/decisions/)", "decisions")
    return re.sub(r"\(docs/", "(", text)


def _overview() -> str:
    rows = [
        f"| [`{PROGRAM} {name}`]({_page(key)}#{_anchor(key)}) | {_cell(COMMANDS[key][1])} |"
        for name, key in sorted((spellings(key)[-1], key) for key in _shown())
    ]
    return (
        "# Commands\n\n"
        "Each command is known by its group (`sampan container ls`), most by a short form, too "
        "(`sampan ps`). A flag that a command does not have is refused by name, with exit code "
        "125.\n\n## Global options\n\n"
        f"{_flags(GLOBAL_FLAGS)}\n## All commands\n\n| Command | What it does |\n|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _shown() -> list[str]:
    return [key for key in sorted(COMMANDS) if key not in HIDDEN]


def _page(key: str) -> str:
    group, space, _ = key.partition(" ")
    return f"{group}.md" if space else "other.md"


def _anchor(key: str) -> str:
    return f"{PROGRAM}-{key}".replace(" ", "-")


def _group(group: str) -> str:
    keys = [key for key in _shown() if _page(key) == f"{group}.md"]
    intro = GROUPS.get(group, "Commands without a group")
    return f"# {PROGRAM} {group}\n\n{intro}.\n\n" + "\n".join(map(_command, keys))


def _command(key: str) -> str:
    command: Command = command_of(key)
    names = spellings(key)
    parts = [
        f"## {PROGRAM} {key} {{ #{_anchor(key)} }}\n",
        f"{_cell(command.short.rstrip('.'))}.\n",
    ]
    parts.append(f"```\n{PROGRAM} {names[-1]} {command.usage}".rstrip() + "\n```\n")
    if len(names) > 1:
        parts.append("Known as " + ", ".join(f"`{PROGRAM} {name}`" for name in names) + ".\n")
    if command.flags:
        parts.append(_flags(command.flags))
    return "\n".join(parts)


def _flags(flags: tuple[Flag, ...] | Any) -> str:
    rows = ["| Option | Value | Meaning |", "|---|---|---|"]
    for flag in sorted(flags, key=lambda flag: flag.name):
        names = f"`-{flag.short}`, `--{flag.name}`" if flag.short else f"`--{flag.name}`"
        kind = f"`{flag.kind}`" if flag.kind else ""
        rows.append(f"| {names} | {kind} | {_cell(helptext.described(flag))} |")
    return "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    """Text in a table: Markdown's and HTML's signs mean themselves."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*_`\[\]])", r"\\\1", text).replace("\n", "<br>")


def _reference(title: str, modules: tuple[str, ...]) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
