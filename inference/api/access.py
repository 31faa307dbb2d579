"""Who may use a server: options for hosts, proxies and the API key, from arguments and environment variables."""

from __future__ import annotations

import argparse
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import InputError

if TYPE_CHECKING:
    from inference.api.front import Access

_ORIGIN_PATTERN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add --allowed-hosts, --forwarded-allow-ips, --root-path and --cors-origin."""
    parser.add_argument(
        "--allowed-hosts",
        metavar="HOSTS",
        help="host names to answer for, separated by commas; *.example.org for subdomains (default: "
        "$TRIPTYCH_ALLOWED_HOSTS, else any)",
    )
    parser.add_argument(
        "--forwarded-allow-ips",
        metavar="ADDRESSES",
        help="addresses or networks of proxies whose X-Forwarded-* headers are trusted, separated by commas; * for all "
        "(default: $FORWARDED_ALLOW_IPS, else none)",
    )
    parser.add_argument(
        "--root-path",
        metavar="PATH",
        help="the path below which a proxy shows this server, such as /demo, and which it removes from requests "
        "(default: $TRIPTYCH_ROOT_PATH, else none; X-Forwarded-Prefix of a trusted proxy replaces it)",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="a site whose pages may use the API in a browser, such as https://app.example.org, or * for every site; "
        "may be repeated (default: $TRIPTYCH_CORS_ORIGINS, separated by commas, else none)",
    )


def read_access(args: argparse.Namespace, environment: Mapping[str, str], **fields: Any) -> Access:
    """Read the options of `add_access` from the arguments, else from the environment.

    Args:
        fields: further fields of `Access`.

    Raises:
        InputError: an item is not a host name or an address.
    """
    from inference.api.front import A_PATH, ROOT_PATH, Access

    def items(argument: str | None, variable: str) -> tuple[str, ...]:
        listed = environment.get(variable, "") if argument is None else argument
        return tuple(item.strip() for item in listed.split(",") if item.strip())

    hosts = items(args.allowed_hosts, "TRIPTYCH_ALLOWED_HOSTS")
    proxies = items(args.forwarded_allow_ips, "FORWARDED_ALLOW_IPS")
    if args.allowed_hosts == "" or not all(map(_HOST_PATTERN.fullmatch, hosts)):
        raise InputError("--allowed-hosts takes host names without scheme, port or path, such as demo.example.org.")
    for proxy in proxies:
        try:
            proxy == "*" or ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise InputError("--forwarded-allow-ips takes addresses or networks, such as 10.0.0.0/8, or *.") from None
    root_path = environment.get("TRIPTYCH_ROOT_PATH", "") if args.root_path is None else args.root_path
    root_path = root_path.removesuffix("/")
    if root_path and not ROOT_PATH.fullmatch(root_path):
        raise InputError(f"--root-path takes {A_PATH}.")
    given = None if args.cors_origin is None else ",".join(args.cors_origin)
    origins = [origin.lower() for origin in items(given, "TRIPTYCH_CORS_ORIGINS")]
    if given == "" or not all(origin == "*" or _ORIGIN_PATTERN.fullmatch(origin) for origin in origins):
        raise InputError(
            "--cors-origin takes a scheme and a host without a path, such as https://app.example.org, or *."
        )
    # As browsers write them: without the port that the scheme implies.
    origins = [re.sub("^(http:.*):80$|^(https:.*):443$", r"\1\2", origin) for origin in origins]
    return Access(hosts, proxies, root_path, cors_origins=tuple(origins), **fields)


def read_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """Read the API key from a file, else from TRIPTYCH_API_KEY; None without either.

    Raises:
        InputError: the file cannot be read or its first line is empty, or the variable is set but empty.
    """
    if file is None:
        key = environment.get("TRIPTYCH_API_KEY")
        if key == "":  # a secret that was not filled in must not open the server to everyone
            raise InputError("TRIPTYCH_API_KEY is set but empty. Set it to the key, or unset it to use none.")
        return key
    try:
        key = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read --api-key-file {file} ({type(error).__name__}).") from None
    if not key:
        raise InputError(f"--api-key-file {file}: the first line is empty. Write the key there.")
    return key
