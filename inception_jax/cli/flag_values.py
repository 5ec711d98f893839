"""Messages for flags with a value of the wrong type, in the words of the field where tyro speaks of its own."""

import dataclasses
import difflib
import re
import shlex
import types
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from inception_jax.errors import UserError

_COUNTS = ("no", "one", "two", "three", "four")
_SWITCHES = ("true", "false", "yes", "no", "on", "off", "0", "1")


def check_values(type_: Any, args: Sequence[str]) -> None:
    """Raises UserError for the first flag of `args` that has no value, or one that its field cannot hold.

    Args:
      type_: a dataclass, whose fields are the flags; fields of a nested one are named SECTION.FIELD.
      args: the command line.
    """
    hints = dict(_fields(type_)) if dataclasses.is_dataclass(type_) else {}
    for position, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        field = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or field not in hints:
            continue
        values = [value] if equals else _values(args[position + 1 :])
        # A field of an experiment has the name that its range is reported with.
        name = field if "." in field or field == "seed" else flag
        if problem := _problem(name, flag, hints[field], values):
            raise UserError(f"{name} {problem}.")


def _fields(type_: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(type_).items():
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def _values(following: Sequence[str]) -> list[str]:
    """The arguments up to the next flag; a negative number is none."""
    end = next((i for i, arg in enumerate(following) if re.match(r"-[^\d.]", arg)), len(following))
    return list(following[:end])


def _problem(name: str, flag: str, hint: Any, values: Sequence[str]) -> str | None:
    """Fault of a flag's values, as the rest of a sentence; None if there is none."""
    hint, optional = _without_none(hint)
    if hint is bool:
        section, dot, last = flag.removeprefix("--").rpartition(".")
        off = f"--{section}.no-{last}" if dot else "leave it out"
        switched = bool(values) and values[0].lower() in _SWITCHES
        return f"is a switch and takes no value: give {flag} or {off}" if switched else None
    if optional and values[:1] == ["None"]:
        return None
    or_none = " or None" if optional else ""
    if get_origin(hint) is tuple:
        return _problem_of_tuple(hint, values, or_none)
    if not all(kind in (int, float) or get_origin(kind) is Literal for kind in _kinds(hint)):
        return None
    if not values:
        return f"takes {_words(hint)}{or_none}, and none is given"
    if _holds(hint, values[0]):
        return None
    suggestion = _suggest(hint, values[0])
    give = f": give {suggestion}" if suggestion else ""
    after_list = ";" if get_origin(hint) is Literal else ","
    return f"takes {_words(hint)}{or_none}{after_list} {shlex.quote(values[0])} is not one{give}"


def _problem_of_tuple(hint: Any, values: Sequence[str], or_none: str) -> str | None:
    kinds = get_args(hint)
    element, count = kinds[0], None if kinds[-1] is Ellipsis else len(kinds)
    if element not in (int, float):
        return None
    how_many = f"{_COUNTS[count]} " if count else ""
    takes = f"takes {how_many}{_words(element).removeprefix('a ')}s{or_none}, with blanks between"
    # Those of a fixed number may be followed by other arguments.
    own = values[:count]
    wrong = next((value for value in own if not _holds(element, value)), None)
    if wrong is None and len(own) == (count or len(own)) and own:
        return None
    parts = [part for value in own for part in re.split(r"[\s,;()\[\]]+", value) if part]
    suggested = [part if _holds(element, part) else _suggest(element, part) for part in parts]
    fits = None not in suggested and suggested and len(suggested) == (count or len(suggested))
    give = f": give {' '.join(map(str, suggested))}" if fits and suggested != list(own) else ""
    if wrong is None:
        return f"{takes}; {_COUNTS[len(own)]} {'is' if len(own) == 1 else 'are'} given"
    return f"{takes}; {shlex.quote(wrong)} is not {'one' if count is None else 'one of them'}{give}"


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without its annotations and None, and whether None was among it."""
    if get_origin(hint) is Annotated:
        return _without_none(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return (kinds[0], True) if len(kinds) == 1 else (hint, True)
    return hint, False


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types of a union but None, or the type itself."""
    if get_origin(hint) not in (Union, types.UnionType):
        return (hint,)
    return tuple(kind for kind in get_args(hint) if kind is not type(None))


def _words(hint: Any) -> str:
    if len(_kinds(hint)) > 1:
        return " or ".join(map(_words, _kinds(hint)))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])
    return "a whole number" if hint is int else "a number"


def _holds(hint: Any, value: str) -> bool:
    if len(_kinds(hint)) > 1:
        return any(_holds(kind, value) for kind in _kinds(hint))
    if get_origin(hint) is Literal:
        return value in map(str, get_args(hint))
    try:
        hint(value)
    except ValueError:
        return False
    return True


def _suggest(hint: Any, value: str) -> str | None:
    """The value that was meant, where that is clear."""
    if len(_kinds(hint)) > 1:
        return next(filter(None, (_suggest(kind, value) for kind in _kinds(hint))), None)
    if get_origin(hint) is Literal:
        choices = {choice.lower(): choice for choice in get_args(hint) if isinstance(choice, str)}
        near = difflib.get_close_matches(value.lower(), choices, 1)
        return choices[near[0]] if near else None
    # 1,500 is a whole number, but may also be one and a half.
    number = None if hint is float and re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", value) else _number(value)
    if number is None or (hint is int and number.denominator != 1):
        return None
    return str(number) if hint is int else f"{float(number):g}"


def _number(value: str) -> Fraction | None:
    """The number of '1e3', '1,000', '0,5', '5%' or '3/4'."""
    text = value.strip()
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}([,' ]\d{3})+", text):
        text = re.sub(r"[,' ]", "", text)
    elif re.fullmatch(r"[+-]?\d*,\d+", text):
        text = text.replace(",", ".")
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    # A large exponent would take all memory as an exact number.
    if not re.fullmatch(
        r"[+-]?(\d{1,20}/\d{1,20}|(\d{1,20}\.?\d{0,20}|\.\d{1,20})(e[+-]?\d{1,2})?)", text, re.IGNORECASE
    ):
        return None
    try:
        return Fraction(text) / (100 if percent else 1)
    except (ValueError, ZeroDivisionError):
        return None
