"""A Griffe extension that fences the interactive examples of docstrings."""

import griffe


class Examples(griffe.Extension):
    """Markdown would take the `>>>` of an example for a quotation in a quotation."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    lines, inside = [], False
    for line in [*text.splitlines(), ""]:
        stripped = line.lstrip()
        indent = line[: len(line) - len(stripped)]
        if not inside and stripped.startswith(">>>"):
            inside, margin = True, indent
            lines.append(f"{margin}```pycon")
        elif inside and not stripped:
            inside = False
            lines.append(f"{margin}```")
        lines.append("" if stripped == "<BLANKLINE>" else line)
    return "\n".join(lines)
