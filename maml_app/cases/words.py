"""What was written about a series, and what it says: whole words in any script, without accents or case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache


# said of a series in any of the languages that scanners are set to
def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split(","))


NOT_AN_IMAGE = _phrases(
    "localizer, localiser, scout, topogram, topogramm, surview, scanogram, survey, lokalizer, loc, reperage, "
    "localizador, dose report, patient protocol, smartprep, bolus tracking, monitoring, premonitoring, test bolus, "
    "testbolus, timing bolus"
)
REWORKED = _phrases("mip, minip, mpr, vrt, reformat, reformatted, subtraction, sub, fused, fusion, screen save")
TURNED = _phrases("cor, coronal, koronar, coronale, sag, sagittal, sagital, sagittale")
UNCORRECTED = _phrases("nac, uncorrected, no ac, non ac")
_AGENTS = _phrases(
    "contrast, contraste, contrasto, kontrast, kontrastmittel, gd, gad, gado, gadolinium, gadolinio, km, mdc, "
    "injection, inj, gadovist, gadavist, gadobutrol, dotarem, clariscan, magnevist, multihance, prohance, omniscan, "
    "primovist, eovist"
)
WITH_CONTRAST = (
    *_phrases("post, ce, c+, +c, cect, t1c, t1ce, injecte, injectee, enhanced"),
    *_AGENTS,
    *(f"post{agent}" for agent in _AGENTS),
)
WITHOUT_CONTRAST = (
    *_phrases("c-, native, nativ, nativo, nativa, plain, unenhanced, non enhanced, not enhanced, nonenhanced"),
    *_phrases("noncontrast, precontrast, nect, ncct, basale, basal, non injecte, non injectee"),
    *(
        f"{without} {agent}"
        for without in _phrases("no, non, without, w/o, wo, ohne, sans, sin, sem, senza, pre")
        for agent in _AGENTS
    ),
)
BEFORE = ("pre",)  # before contrast, unless an agent or "post" says otherwise
NO_AGENT = ("", "no", "none", "n", "non", "nil", "nein", "keine", "without", "ohne", "sans", "sin", "senza", "0")
# before or after something else than the contrast agent
_OF_TREATMENT = re.compile(
    r" (?:pre|post|prae) (?:op|ops|opp|oper\w*|surg\w*|treat\w*|tx|rx|xrt|radiat\w*|radioth\w*|radioch\w*|chemo\w*|"
    r"therap\w*|biops\w*|bx|transpl\w*|resect\w*|tace|ablat\w*|embol\w*|stealth|plan\w*|icu)(?= )"
)
# scripts that are written without spaces: each sign is a word, and a phrase is found wherever its signs follow
_SIGN = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Lower case, no accents on Latin and Greek letters, one space around each word; '' if there is no word."""
    plain = unicodedata.normalize("NFKD", text)
    plain = unicodedata.normalize("NFC", re.sub(r"(?<=[A-Za-z\u0370-\u03ff])[\u0300-\u036f]+", "", plain)).casefold()
    plain = _SIGN.sub(r" \1 ", plain).replace("_", " ")
    # a plus stands by itself ("Art+PV", "KM+"), except in "c+" and "+c", which say that there is contrast
    plain = re.sub(r"(?<! c)\+", " + ", re.sub(r"\bc ?\+", " c+ ", plain))
    plain = re.sub(r"\+ +c\b", "+c", plain)
    words = " ".join(re.sub(r"[^\w+\-*]+", " ", plain).split())
    # a hyphen joins words, except in "c-", which says that there is no contrast
    joined = " ".join(re.sub(r"-(?=\w)", " ", words).split())
    return f" {joined} " if re.search(r"\w", joined) else ""


def found(phrases: Iterable[str], text: str) -> str:
    """The longest phrase that is in a folded text; '' if none is. A phrase without a word is nowhere."""
    return max((phrase for phrase in phrases if folded(phrase) and folded(phrase) in text), key=len, default="")


def is_word(phrase: str) -> bool:
    """Whether a phrase holds anything that can be found."""
    return bool(folded(phrase))


def said_of_contrast(text: str) -> tuple[bool, bool, bool]:
    """Whether a folded text says that contrast was given, that it was not, and (weaker) that it was before it."""
    text = _OF_TREATMENT.sub(" ", text)
    without = found(WITHOUT_CONTRAST, text)
    if without:
        for phrase in WITHOUT_CONTRAST:  # "without contrast" does not say "contrast"
            text = text.replace(folded(phrase), "  ")
    return bool(found(WITH_CONTRAST, text)), bool(without), bool(found(BEFORE, text))
