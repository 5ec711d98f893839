"""What README.md and docs/ tell a reader to type: their blocks, the commands in these and those in the prose."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "results" / "README.md")
FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.M)
HERE_DOCUMENT = re.compile(r"^(python) - <<'(\w+)'\n(.*?)^\2$", re.M | re.S)
LOOP = re.compile(r"^until (.*?); do\n.*?^done$", re.M | re.S)
EVALUATED = re.compile(r'^eval "\$\((.*)\)"', re.M)
REDIRECTED = re.compile(r" > \S+")
OPTIONAL = re.compile(r"\[(--[^]]*)\]")
SPAN = re.compile(r"`([^`]+)`")
PROGRAM = re.compile(r"(?:\w+=\S+ )*(?:inception-jax|python (?:benchmarks|experiments)/\w+\.py)\b")


@dataclasses.dataclass(frozen=True)
class Shown:
    """A command or a Python snippet, and the page that shows it."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.text.split())}"


def fences() -> list[tuple[str, str, str]]:
    """Page, language and text of every fenced block."""
    return [
        (str(page.relative_to(ROOT)), language, text)
        for page in PAGES
        for language, text in FENCE.findall(page.read_text())
    ]


def commands() -> list[Shown]:
    """Every simple command of the sh blocks, with neither comments nor what stands in here-documents."""
    return [Shown(page, c) for page, language, text in fences() if language == "sh" for c in _commands(text)]


def snippets() -> list[Shown]:
    """Every python block, and the here-documents of the sh blocks."""
    found = []
    for page, language, text in fences():
        texts = [text] if language == "python" else [body for _, _, body in HERE_DOCUMENT.findall(text)]
        found += [Shown(page, text) for text in texts]
    return found


def spans() -> list[Shown]:
    """What the prose has between backticks, in one line each."""
    return [
        Shown(str(page.relative_to(ROOT)), OPTIONAL.sub(r"\1", " ".join(span.split())))
        for page in PAGES
        for span in SPAN.findall(FENCE.sub("", page.read_text()))
    ]


def in_docstrings() -> list[Shown]:
    """The commands that stand alone, indented or not, in the docstrings of experiments/ and benchmarks/."""
    found = []
    for path in sorted([*(ROOT / "experiments").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]):
        docstring = path.read_text().split('"""')[1].replace("\\\\\n", " ")
        lines = [line.strip() for line in docstring.splitlines()]
        found += [
            Shown(str(path.relative_to(ROOT)), command)
            for line in lines
            if PROGRAM.match(line)
            for command in _commands(line)
        ]
    return found


def _commands(script: str) -> Iterator[str]:
    script = EVALUATED.sub(r"\1", LOOP.sub(r"\1", HERE_DOCUMENT.sub("", script))).replace("\\\n", " ")
    for line in script.splitlines():
        words = shlex.shlex(REDIRECTED.sub("", OPTIONAL.sub(r"\1", line)), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        for operator, command in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")):
            if not operator:
                # Patterns are not to be quoted.
                yield " ".join(shlex.quote(word) if " " in word else word for word in command)
