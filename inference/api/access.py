"""Who may use a server: the options for hosts, proxies and the API key, read from arguments and environment."""

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

_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]|\*")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say who may ask, to the command of any server."""
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


def read_access(args: argparse.Namespace, environment: Mapping[str, str], **fields: Any) -> Access:
    """Read who may ask from the arguments of `add_access`, else from the environment.

    Args:
        fields: further ones of `Access`.

    Raises:
        InputError: one is not a host name or an address.
    """

    from inference.api.front import Access

    def items(given: str | None, variable: str) -> tuple[str, ...]:
        listed = environment.get(variable, "") if given is None else given
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
    return Access(allowed_hosts=hosts, trusted_proxies=proxies, **fields)


def read_key(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The API key in a file, else in TRIPTYCH_API_KEY; None where there is neither.

    Raises:
        InputError: the file cannot be read or begins with an empty line, or the variable is set but empty.
    """
    if file is None:
        said = environment.get("TRIPTYCH_API_KEY")
        if said == "":  # a secret that was not filled in must not open the server to all
            raise InputError("TRIPTYCH_API_KEY is set but empty. Write the key there, or unset it to have none.")
        return said
    try:
        key: str = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--api-key-file {file} cannot be read: {type(error).__name__}.") from None
    if not key:
        raise InputError(f"--api-key-file {file} begins with an empty line. Write the key there.")
    return key
