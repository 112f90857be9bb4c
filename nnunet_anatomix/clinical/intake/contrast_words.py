"""Words for scans before and after contrast agent in descriptions, in the languages of clinics.

English, German, French, Italian, Spanish, Portuguese, Dutch, Swedish, Danish, Norwegian, Polish.
"""

from __future__ import annotations

import re
import unicodedata


def _either(words: str) -> str:
    """Return a pattern of any of the given patterns, which blanks separate."""
    return "|".join(words.split())


# All tables hold words in lower case without accents, as patterns.
_AGENT = _either(
    r"""
    gd gad gado\w* gadd?ovist gd(dtpa|dota|bopta|hpdo3a|eob|eobdtpa) gadolin\w* gadav\w* dtpa
    dota bopta eob civ iv i\.v magnevist\w* omniscan dotarem dotagraf clariscan cyclolux
    pro-?hance multi-?hance eovist primovist vasovist ablavar ferumoxytol feraheme teslascan
    vueway elucirem artirem optimark magnograf kms? kontr kontras\w* contr contrast\w* cte
    enhanced? enh enhancement ce mdc pdc inj injec\w* injek\w* iniez\w* iniett\w* inyec\w*
    injet\w*
    """
)
_NO = _either(
    r"""
    no non not without wo w/o ohne o kein\w* sans s s/ utan ej inte icke ikke uden uten u ilman
    ss senza sin sem zonder geen bez un
    """
)
_BEFORE = _either(
    r"""
    pre pra prae prior vor before avant fore innan antes prima voor przed forud for av v
    """
)
_AFTER = _either(
    r"""
    post nach apres after efter etter dopo despues depois pos po na n ap
    """
)
_WITH = _either(
    r"""
    with w w/ mit m avec con c/ com met med \+
    """
)
_ALONE_BEFORE, _ALONE_AFTER = r"pre|pra|prae|vor|avant|fore", r"post|nach|apres|after|efter|etter|dopo|despues"
_FILLER = _either(
    r"""
    i to intraven\w* de del della di d do du des der den dem the any le les la il lo el l a mezzo
    produit prod medio meio media medium agent agente mittel bolus
    """
)
_AND = _either(
    r"""
    and und et e y en och og oder or ou o i & / ,
    """
)
_NATIVE = _either(
    r"""
    nativ[aeo]? natifs? natives? nativt unenhanced nonenhanced uncontrasted plain simple basale
    blanco nc okm kontrast(siz|los|frei)\w*
    (pre|prae|non|no|wo|sans|ohne|without|nativ)(gd|gad\w*|km|contr\w*|kontr\w*|con|ce|inj\w*)
    c- -c -k s/c
    """
)
_ENHANCED = _either(
    r"""
    mkm nkm (post?|with|mit|nach|avec)(gd|gad\w*|km|contr\w*|kontr\w*|con|ce|inj\w*) c\+ \+c
    \+k c/c hbp hepatobiliary arterial\w* arteriell\w* arterielle venous venoes venos\w* portal
    portale? portalvenous equilibrium delayed late spat spaet tardi\w*
    """
)
_BOTH = _either(
    r"""
    \+/- \+- prepost gd- gad- km- -gd -gad -km t1\+ dyn dynam\w* dce twist
    tricks art ven pv pvp equil delay nephro\w* excret\w* perf perfusion permeability
    """
)
_REFUSAL = r"nein|none|nej|nee|nelkul"
_TREATMENT = _either(
    r"""
    op ops operativ\w* operator\w* operat\w* surg\w* rt rad\w* chemo\w* bio biops\w* treat\w*
    tx therap\w* fossa fosse horn partum ictal mortem trauma\w* embol\w* ablat\w* bestrahl\w*
    resect\w* contouring processing proc processed
    """
)
GLUED_BEFORE = r"(?:[es]|ax|sag|cor|tra|3d|2d)?"
GLUED_AFTER = r"(?:tse|fse|tfe|ffe|se|gre|fl[23]d|fs|fatsat|spir|spair|ir|ax|sag|cor|tra|[23]d|mpr|mprage|vibe|space)*"
"""Words that descriptions glue to T1, T2 or PD, such as ``T1fs`` or ``sagT2tse``."""
SUFFIX_NATIVE, SUFFIX_ENHANCED = r"n|nat|nativ|native|pre|okm|vkm", r"ce|c|gd|gad|gado|km|k|post|postgd|ca|mkm|nkm"
"""Endings of the word T1, as in the names of BraTS."""
_SHORT_AGENT = r"c|k|con|cont|cm|mc|pc"
"""Agents only right after one of :data:`_SHORT_PREFIX`."""
_SHORT_PREFIX = _either(
    r"""
    no non without w/o wo pre post with w/ ohne mit nach vor utan ej u med m fore efter innan
    uden uten for etter \+ s/ c/ sin sans senza avec con com
    """
)
_LAST_WITHOUT, _LAST_WITH = r"w/o|wo|without|ohne|sans|sin|senza|utan|uden|uten", r"w/|with|mit|avec|med"
"""Prepositions that speak of an agent if no word follows."""

_LEXER = re.compile(
    r"""
    w\s*/\s*o(?![a-z]) | (?<![a-z])[cs]\s?/\s?c(?![a-z]) | (?<![a-z])[wcs]/  # abbreviations
    | \+\s?/\s?- | \+-
    | \+\s?[ck](?![a-z0-9]) | (?<![a-z0-9])c\+ | (?<![a-z0-9])c-(?![a-z0-9])
    | (?<=\s)-(?:c|k|gd|gad|km)(?![a-z0-9-]) | (?<![a-z0-9])(?:gd|gad|km)-(?![a-z0-9])
    | (?<![a-z0-9])t1w?\+(?!\s*[a-z])
    | (?:pro|multi)-hance | i\.v
    | [a-z0-9*]+ | [+&/,]
    """,
    re.VERBOSE,
)
"""Words and signs of a text in lower case without accents."""


_GLUED = rf"{GLUED_BEFORE}t1(?:wi?)?{GLUED_AFTER}(?:(?P<native>{SUFFIX_NATIVE})|{SUFFIX_ENHANCED})"


def agent_in(text: str) -> frozenset[bool]:
    """Return what a text says of a contrast agent.

    Args:
        text: Description of a series, name of a file, or name of a channel.

    Returns:
        True for "after contrast agent" and False for "before" or "without" it; both if the text
            says both or is ambiguous; empty if it says nothing.
    """
    words = _split_words(text)
    said: set[bool] = set()
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if re.fullmatch(_BOTH, word):
            said |= {True, False}
        elif re.fullmatch(_NATIVE, word):
            said.add(False)
        elif re.fullmatch(_ENHANCED, word):
            said.add(True)
        elif re.fullmatch(_ALONE_BEFORE, word) and not re.fullmatch(_TREATMENT, following):
            said.add(False)
        elif re.fullmatch(_ALONE_AFTER, word) and not re.fullmatch(_TREATMENT, following):
            said.add(True)
        elif not following and re.fullmatch(rf"{_LAST_WITHOUT}|{_LAST_WITH}", word):
            said.add(re.fullmatch(_LAST_WITH, word) is not None)
        elif _is_agent(words, place):
            if re.fullmatch(_REFUSAL, following):
                said.add(False)
            elif re.fullmatch(r"non?", following):  # of the agent, or of what comes next
                said |= {True, False}
            else:
                said |= _modifiers(words[:place]) or {True}
        elif _is_ambiguous(word, following):
            said |= {True, False}
        elif glued := re.fullmatch(_GLUED, word):
            said.add(glued["native"] is None)
    if not said and re.search(r"(?<![a-z0-9])\d+\s?min(ute)?s?\b", text.lower()):
        return frozenset((True, False))  # minutes of the acquisition, or after the injection
    return frozenset(said)


_SPELLINGS = (
    (r"[–—]", "-"),
    (r"(?<=t1)(w?)-c(?![a-z0-9-])", r"\1 +/- "),  # a hyphen, or a minus
    (r"(?<=\s)-\s+(c|k|gd|gad|gado|km)(?![a-z0-9])(?!\s*spine)", " +/- "),
    (r"(?<![a-z0-9])(c|gd|gad|gado|km)\s+-\s*$", " +/- "),
    (r"(?<![a-z0-9])c\s+\+(?![a-z0-9])", " c+ "),
    (r"(?<![a-z])w(?:wo|[\s/&+]*(?:[/&+]|and)[\s/&+]*w\s*/?\s*o)(?![a-z])", " +/- "),  # with and without
    (r"(?<![a-z])w\s*/?\s*o\s*(?:[/&+]|and)\s*w(?![a-z])(?!\s*/?\s*o)", " +/- "),
    (r"(?<![a-z])w\.\s?o\.?(?![a-z])", " w/o "),
    (r"(?<![a-z])w\s*[/-]\s*o(?:ut)?(?![a-z])", " w/o "),
    (r"(?<![a-z])([cs])\.\s?c\.?(?![a-z])", r" \1/c "),
    (r"\b(phase|multi|tissue|magnetization transfer|susceptibility)[ -]contrast\b", " "),
)
"""Spellings that become one sign or word before a text is split."""


def is_agent(word: str) -> bool:
    """Return whether a word in lower case is the name of a contrast agent, or short for one."""
    return re.fullmatch(_AGENT, word) is not None


def _split_words(text: str) -> list[str]:
    plain = unicodedata.normalize(
        "NFKD", text.replace("±", "+/-").replace("ø", "o").replace("Ø", "o").replace("ı", "i")
    )
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter)).lower().replace("_", " ")
    for pattern, replacement in _SPELLINGS:
        plain = re.sub(pattern, replacement, plain)
    return ["".join(word.split()) for word in _LEXER.findall(plain)]


def _is_agent(words: list[str], place: int) -> bool:
    word = words[place]
    if re.fullmatch(_AGENT, word):
        return True
    following = words[place + 1] if place + 1 < len(words) else ""
    return bool(
        re.fullmatch(_SHORT_AGENT, word)
        and place
        and re.fullmatch(_SHORT_PREFIX, words[place - 1])
        and not re.fullmatch(r"spine|sp|col\w*|ws|hws", following)
    )


def _is_ambiguous(word: str, following: str) -> bool:
    """Return whether a word that is no agent may be short for one, or for "after"."""
    return bool(
        (re.fullmatch(r"con|cm|mc", word) and not following) or (word == "pos" and not re.fullmatch(_AGENT, following))
    )


def _modifiers(before: list[str]) -> set[bool]:
    """Return what the words right before an agent say, over fillers and conjunctions."""
    said = set()
    for word in reversed(before):
        if re.fullmatch(rf"{_NO}|{_BEFORE}", word):
            said.add(False)
        elif re.fullmatch(rf"{_AFTER}|{_WITH}", word):
            said.add(True)
        elif not re.fullmatch(rf"{_FILLER}|{_AND}|{_AGENT}", word):
            break
    return said
