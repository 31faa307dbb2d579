"""Licence and language of a model, as the Hub writes them in a card."""

from __future__ import annotations

import re
from typing import Any

from inference.errors import InputError, shown

# The identifiers that the Hub accepts: https://huggingface.co/docs/hub/repositories-licenses
LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
_LANGUAGE = re.compile(r"[a-z]{2,3}|multilingual|code")
LICENCE_HELP = "identifier such as mit, apache-2.0 or other, as on the Hub (default: none is named)"
LANGUAGE_HELP = "of the texts: ISO 639 codes such as en,de (default: none is named)"


def check_licence(licence: Any, languages: Any) -> None:
    """Raise InputError unless these can be in a card on the Hub; None stands for what nobody has said."""
    if licence is not None and not (isinstance(licence, str) and licence in LICENCES.split()):
        raise InputError(
            f"The Hub has no licence {shown(licence)}. Pass --licence with one of its identifiers, such as mit, "
            "apache-2.0, cc-by-4.0 or other."
        )
    known = isinstance(languages, list)
    odd = (
        [one for one in languages if not (isinstance(one, str) and _LANGUAGE.fullmatch(one))] if known else [languages]
    )
    if languages is not None and odd:
        what = "the code of a language" if known else "a list of languages"
        raise InputError(f"{shown(odd[0])} is not {what}. Pass --language with ISO 639 codes, such as en,de.")


def unnamed(licence: Any, languages: Any) -> list[str]:
    """Return warnings about what a card does not say."""
    warnings = []
    if licence is None:
        warnings.append("No licence is named, so nobody may reuse the model. Name one with --licence.")
    if not languages:
        warnings.append("No language is named. Name it with --language, such as en.")
    return warnings
