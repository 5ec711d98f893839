"""Names that come from outside, such as those of files and classes: shown on one line, and read from text files."""

import codecs
import re
import unicodedata
from pathlib import Path

from inception_jax.errors import UserError

# Control characters, lone surrogates (bytes that are no text, PEP 383), separators of lines and of paragraphs.
_ESCAPED = {"Cc", "Cs", "Zl", "Zp"}

# The mark of UTF-32 comes first, because it begins with that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def printable(name: str) -> str:
    r"""A name on one line, in characters that every encoding of Unicode has.

    What cannot be printed, and a blank at either end, is replaced by Python's escape for it, as in `new\nline`. A
    printable name remains as it is, so that the function may be applied twice.
    """
    inner = name.strip()
    start = name.find(inner) if inner else len(name)
    escaped = "".join(map(_escape, name[:start]))
    escaped += "".join(_escape(c) if unicodedata.category(c) in _ESCAPED else c for c in inner)
    return escaped + "".join(map(_escape, name[start + len(inner) :]))


def _escape(character: str) -> str:
    return r"\x20" if character == " " else character.encode("unicode_escape").decode()


def check_path(path: str | Path) -> None:
    """Raises UserError where a path has bytes that are not UTF-8: TensorStore and array_record cannot open it."""
    full = str(Path(path).absolute())
    if full != full.encode(errors="replace").decode():
        raise UserError(f"the path {printable(full)} is not UTF-8; rename that folder or give another one.")


def read_text(path: str | Path, *, errors: str = "strict") -> str:
    """Reads a text file in UTF-8, or in UTF-16 or UTF-32, without its byte order mark.

    Args:
      path: the file.
      errors: handling of bytes that are no text, as for `bytes.decode`.

    Raises:
      UserError: the file cannot be read, or its contents are in another encoding or no text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{printable(str(path))} cannot be read: {(error.strerror or str(error)).lower()}.") from error
    mark = next((mark for mark in _ENCODINGS if data.startswith(mark)), b"")
    # Without a mark, ASCII in UTF-16 is recognised by the zero in each character.
    unmarked = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be" if data[:1] == b"\0" else "utf-8"
    try:
        text = data[len(mark) :].decode(_ENCODINGS.get(mark, unmarked), errors)
    except UnicodeDecodeError as error:
        line = data[: len(mark) + error.start].count(b"\n") + 1
        raise UserError(
            f"{printable(str(path))}, line {line}, is not UTF-8; save the file as text in UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"{printable(str(path))} is not a text file; save it as text in UTF-8.")
    return text


def read_names(path: str | Path) -> list[str]:
    """Reads a text file with one name per line, whatever ends its lines, without the blanks around the names.

    Blank lines at the end are ignored. Raises UserError as `read_text`, and for another blank line.
    """
    # Not splitlines(), which also splits at characters that may be part of a name.
    names = [line.strip() for line in re.split(r"\r\n|\n|\r", read_text(path))]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise UserError(f"{printable(str(path))}, line {names.index('') + 1}, is blank; each line must have a name.")
    return names
