"""Remove from published files what names the machine they were made on: home folders, users and hosts.

A path that is a setting of its own becomes its last name, and the path of a known base model becomes its Hub id.
Anything else is refused with its file and line.
"""

from __future__ import annotations

import json
import mmap
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inference.errors import InputError
from inference.formats.files import OTHER_BYTES, TOKENIZERS

_PLACES = "content|data|export|gpfs|kaggle|lustre|media|mnt|nfs|opt|private|scratch|srv|storage|tmp|var|Volumes|work"
_END = r"[^\s\"'`<>()|,;]+"
# A path with the name of a user: /home/ann/…, /Users/ann/…, /mnt/c/Users/ann/…, /root/…, C:\Users\ann\…, \\server\share
_PRIVATE = "|".join(
    (
        rf"(?<![\w.~-])(?<!:/)(?:/[\w.-]{{1,40}}){{0,5}}/(?:home|Users|root)/{_END}",
        rf"(?<![A-Za-z0-9])[A-Za-z]:[\\/]{{1,2}}(?i:users|documents and settings)[\\/]{{1,2}}{_END}",
        rf"(?<!\\)\\\\[\w.-]{{2,}}\\{_END}",
        # Other places of people's files, if at least two names deep; and a base model that is no Hub id.
        rf"(?<![\w.~-])(?<!:/)/(?:{_PLACES}|workspaces?)/[\w.@-]+/{_END}",
        r"(?m:^(?:base_model: *|- *base_model:\w+: *)['\"]?(?:[A-Za-z]:[\\/]|[./]).*$)",
    )
)
_PRIVATE_BYTES = re.compile(rb"/(?:home|Users|root)/[\w.@-]+/|[A-Za-z]:[\\/]{1,2}Users[\\/]{1,2}[\w.@-]+[\\/]")
_ABSOLUTE = re.compile(r"(?:file://)?(?:~?/|[A-Za-z]:[\\/]|\\\\).*", re.DOTALL)
# Settings that hold a path. Nothing of transformers or PEFT finds a file by them in a folder that was moved.
_PATH_KEYS = re.compile(r"(^|_)(path|file|dir|folder|directory|cwd)$", re.IGNORECASE)
_USER_KEYS = re.compile(r"(user|host)_?name", re.IGNORECASE)
# Tokens are content: a vocabulary of program code may well have /home/ among them.
VOCABULARIES = set(TOKENIZERS) - {"tokenizer_config.json", "special_tokens_map.json"}
MAX_SHOWN = 5


def publishable(files: Mapping[str, Path], known: Mapping[str, str]) -> dict[str, bytes]:
    """Return the new contents of those files that name the machine and can be rewritten.

    Args:
        files: name in the Space -> file.
        known: path of a base model -> its Hub id.

    Raises:
        InputError: a file names the machine where no rewriting keeps its meaning; with the lines.
    """
    written, problems, private = {}, [], re.compile("|".join((_PRIVATE, *_own_names())))
    for name, path in files.items():
        try:
            content, reasons = _checked(path, known, private)
        except RecursionError:
            content, reasons = None, ["nests too deeply to be checked"]
        problems += [f"{name} {reason}" for reason in reasons]
        if content is not None:
            written[name] = content
    if problems:
        more = f"; and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise InputError(
            f"These files would publish where they were made: {'; '.join(problems[:MAX_SHOWN])}{more}. Edit them, or "
            "remove them if the model works without."
        )
    return written


def check_own_names(files: Mapping[str, Path]) -> None:
    """Raise InputError if a text file, of whatever origin, has the home folder or the name of this machine."""
    names = _own_names()
    for name, path in files.items():
        text = _text(path) if names and path.name not in VOCABULARIES else None
        if text is not None and (match := re.search("|".join(names), text)):
            line = text.count("\n", 0, match.start()) + 1
            raise InputError(
                f"{name} would publish {match[0]!r}, of this machine, in line {line}. Edit it, stage again."
            )


def _checked(path: Path, known: Mapping[str, str], private: re.Pattern[str]) -> tuple[bytes | None, list[str]]:
    """Return the new content of a file, if it changes, and what is wrong with it."""
    if path.name in VOCABULARIES:
        return None, []
    if path.suffix == ".onnx":
        return (_without_notes(path) if _holds(path) else None), []
    text = _text(path)
    if text is None:
        named = _holds(path)
        return None, [f"names {named} among its bytes"] if named else []
    problems: list[str] = []
    try:
        document = json.loads(text, object_pairs_hook=_named_once) if path.suffix == ".json" else None
    except ValueError:
        document = None
    if document is None:
        new = plain = _replaced(text, known)
    else:
        cleaned = _clean(document, "", known, problems)
        # Strings are checked without escapes, since \\u002f is a slash too.
        plain = "\n".join(_strings(cleaned))
        new = text if cleaned == document else json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n"
    lines = text.splitlines()
    for match in private.finditer(plain):
        places = [number for number, line in enumerate(lines, start=1) if match[0] in line.replace("\\\\", "\\")]
        problems.append(f"names {match[0][:80]}" + (f" in line {places[0]}" if places else ""))
    return (new.encode() if new != text else None), problems


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError for two values of one name, the first of which nobody would check."""
    if len(named := dict(pairs)) < len(pairs):
        raise ValueError("a name comes twice")
    return named


def _text(path: Path) -> str | None:
    """Return what a file holds if it is text."""
    if path.suffix in (".safetensors", ".onnx", ".bin", ".data") or path.stat().st_size > OTHER_BYTES:
        return None
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _clean(value: Any, key: str, known: Mapping[str, str], problems: list[str]) -> Any:
    """Return a JSON value with its paths rewritten."""
    if isinstance(value, dict):
        return {name: _clean(item, name, known, problems) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, key, known, problems) for item in value]
    if not isinstance(value, str):
        return value
    value = _replaced(value, known)
    if _PATH_KEYS.search(key) and _ABSOLUTE.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1] or "model"
    if value and _USER_KEYS.fullmatch(key):
        problems.append(f"has {key!r}, which names a user or a host")
    return value


def _strings(value: Any) -> Iterator[str]:
    """Yield every string of a JSON value, the keys too."""
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, str):
        yield value


def _replaced(text: str, known: Mapping[str, str]) -> str:
    for path in sorted(known, key=len, reverse=True):
        before = r"[\w.]" if _ABSOLUTE.fullmatch(path) else r"[\w./\\]"  # after a slash, it is a part of another path
        text = re.sub(rf"(?<!{before}){re.escape(path)}(?![\w/\\-])", known[path].replace("\\", "/"), text)
    return text


def _own_names() -> list[str]:
    """Return patterns of this machine's home folder and its name, where they are not everybody's."""
    home, host = Path.home(), platform.node()
    names = [re.escape(str(home))] if len(home.parts) > 2 else []
    if len(host) >= 4 and not host.isalpha():  # one that is a word would be found in any text
        names.append(rf"(?<![\w.-]){re.escape(host)}(?![\w-])")
    return names


def _holds(path: Path) -> str | None:
    """Return the first path with the name of a user among the bytes of a file."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        match = _PRIVATE_BYTES.search(content)
        return None if match is None else match[0].decode(errors="replace")[:80]


def _without_notes(path: Path) -> bytes:
    """Return an ONNX file without its comments, where exporters record the source lines of the model."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    _clear_notes(model)
    content: bytes = model.SerializeToString()
    if match := _PRIVATE_BYTES.search(content):
        raise InputError(
            f"{path} names {match[0].decode(errors='replace')[:80]} outside of its comments. Export the model again."
        )
    return content


def _clear_notes(message: Any) -> None:
    for field, value in list(message.ListFields()):
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                _clear_notes(part)
