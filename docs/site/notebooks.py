"""A hook of MkDocs: every notebook as a page, with the outputs that are stored in it."""

import json
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

FOLDER = "notebooks"


def on_files(files: Any, config: Any) -> Any:
    """Add a page beside each notebook."""
    for path in sorted(Path(config["docs_dir"], FOLDER).glob("*.ipynb")):
        page = f"{FOLDER}/{path.stem}.md"
        content = page_of(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead from the site's pages to a notebook's page; in a checkout the same links lead to the notebook."""
    return markdown if page.file.src_uri.startswith(FOLDER) else markdown.replace(".ipynb)", ".md)")


def page_of(notebook: dict[str, Any], name: str) -> str:
    """Return a notebook as Markdown, with a line that leads to the file itself."""
    first, *others = notebook["cells"]
    told = f"*This page is a notebook: [{name}]({name}).*"
    return "\n\n".join(["".join(first["source"]), told, *(part for cell in others for part in _parts(cell))])


def _parts(cell: dict[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source.replace(".ipynb)", ".md)")]
    return [f"```python\n{source}\n```", *(_output(output) for output in cell["outputs"])]


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    html = "".join(data["text/html"]) if "text/html" in data else f"<pre>{escape(''.join(data['text/plain']))}</pre>"
    return f'<div class="notebook-output">{html.strip()}</div>'
