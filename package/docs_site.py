"""Hook of mkdocs: pages that are made of the code, and those that lie beside `docs`.

README, NEWS and CONTRIBUTING are read at the top of the repository, so links in them and to them
are turned to where the site has them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

SHIM = "assets/search_from_disk.js"
THEIRS = re.compile(r"https://[^\"' ]*/iframe-worker/shim")
"""What the theme would load from a server instead."""
ROOT = Path(__file__).resolve().parent.parent
BESIDE = {"README.md": "index.md", "NEWS.md": "NEWS.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, and what lies at the top."""
    sys.path.insert(0, str(Path(__file__).parent))  # mkdocs takes it away behind each hook
    import manual

    for name, place in BESIDE.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text()))
    files.append(File.generated(config, "LICENSE.txt", content=(ROOT / "LICENSE").read_text()))
    shim = (ROOT / "package/search_from_disk.js").read_text()
    files.append(File.generated(config, SHIM, content=shim))
    files.append(File.generated(config, "cli.md", content=manual.markdown()))
    files.append(File.generated(config, "schema.md", content=schema()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Turn links between the top and `docs` to where the site has their pages."""
    text = re.sub(r"\]\((?:\.\./)?(README|NEWS|CONTRIBUTING)\.md", _beside, markdown)
    text = re.sub(r"\]\((?:\.\./)?LICENSE\)", "](LICENSE.txt)", text)
    return re.sub(r"(\]\(|src=\")docs/", r"\1", text)


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Take the script that lets search work from disk from the site, not from elsewhere."""
    return THEIRS.sub(_relative(page.file.url), output)


def on_post_template(output_content: str, *, template_name: str, **_: object) -> str:
    """Do the same in the page of what is not found."""
    return THEIRS.sub(_relative(template_name), output_content)


def _relative(url: str) -> str:
    return "../" * url.count("/") + SHIM


def _beside(found: re.Match[str]) -> str:
    return f"]({BESIDE[f'{found[1]}.md']}"


def schema() -> str:
    """Return the keys of topologies as a page, from their JSON Schema."""
    from labctl import topology

    whole = topology.json_schema()
    out = [
        "# Topology schema\n",
        "Every key of a topology, made from what `labctl schema` prints. What they mean together, "
        "with examples: [topology.md](topology.md).\n",
        "## Topology\n", *_table(whole),
    ]  # fmt: skip
    for name, part in sorted(whole["$defs"].items()):
        out += [f"## {name}\n", f"{_line(part.get('description', ''))}\n", *_table(part)]
    return "\n".join(out)


def _table(part: dict[str, Any]) -> list[str]:
    rows = ["| key | what it takes | default | what it is |", "|---|---|---|---|"]
    needed = part.get("required", [])
    for key, value in part.get("properties", {}).items():
        default = "needed" if key in needed else f"`{value.get('default')}`"
        if key not in needed and value.get("default") in (None, [], {}):
            default = ""
        cells = [f"`{key}`", _type(value), default, _line(value.get("description", ""))]
        rows.append("| " + " | ".join(one.replace("|", "\\|") for one in cells) + " |")
    return [*rows, ""]


def _type(value: dict[str, Any]) -> str:
    """Return in words what a value may be."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in value:
        return ", ".join(f"`{_yaml(one)}`" for one in value["enum"])
    if "const" in value:
        return f"`{_yaml(value['const'])}`"
    for key in ("anyOf", "oneOf"):
        if key in value:
            kinds = dict.fromkeys(_type(one) for one in value[key] if one.get("type") != "null")
            return " or ".join(kinds)
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        inner = [*value.get("patternProperties", {}).values()]
        extra = value.get("additionalProperties")
        if isinstance(extra, dict):
            inner.append(extra)
        return f"mapping of names to {_type(inner[0])}" if inner else "mapping"
    return str(value.get("type", "anything"))


def _yaml(value: object) -> str:
    return (
        {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )


def _line(text: str) -> str:
    return re.sub(r"([<*])", r"\\\1", " ".join(text.split()))
