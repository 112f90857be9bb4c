"""Tests of words for scans before and after contrast agent, in many languages."""

from __future__ import annotations

import itertools

import pytest

from nnunet_anatomix.clinical.intake.channel_words import modalities_in
from nnunet_anatomix.clinical.intake.contrast_words import agent_in
from nnunet_anatomix.clinical.intake.needs import Channel

NATIVE = (
    *("T1 SAG WITHOUT CONTRAST", "AX T1 PRE GAD", "AX T1 PRE", "COR T1 W/O", "SAG T1 W/O CONTRAST", "T1 w/o c"),
    *("Ax T1 wo contrast", "AX T1 NON CONTRAST", "T1 NON-CON", "T1 NONCONTRAST", "T1 unenhanced", "T1 precontrast"),
    *("T1 pre-contrast", "T1 PRE-GD", "T1 no gad", "AX T1 FS PRE CONTRAST", "Axial T1 plain", "T1 without IV contrast"),
    *("3D T1 MPRAGE without gadolinium", "t1_vibe_fs_tra_pre", "T1 C-", "T1 -C", "T1n", "BraTS-GLI-00000-000-t1n"),
    *("t1_tse_tra o. KM", "T1 TSE o.KM", "t1 tra nativ", "T1 ohne Kontrastmittel", "t1_mpr_sag vor KM", "T1 kein KM"),
    *("T1 PRAE KM", "T1 vor Kontrastmittelgabe", "T1 Prä KM", "sub-01_T1w_precontrast"),
    *("T1 sans injection", "AX T1 SANS INJ", "T1 sans gado", "T1 avant injection", "T1 non injecté", "T1 natif"),
    *("T1 utan kontrast", "T1 ej kontrast", "T1 före kontrast", "T1 uden kontrast", "T1 bez kontrastu"),
    *("T1 senza mdc", "T1 senza mezzo di contrasto", "T1 prima del contrasto", "T1 nativo", "T1 zonder contrast"),
    *(
        "T1 SAG WITHOUT",
        "T1 -k",
        "T1 utan k",
        "T1 u. kontrast",
        "T1 oKM",
        "T1 s/ MC",
        "T1 no CM",
        "T1 v. KM",
        "T1 kontrastlos",
        "T1 AV INJ",
    ),
    *("T1 ss inj", "T1 basale", "T1 simple", "T1 sin CIV", "T1 S/ GADO", "T1 kontrastsız", "T1 sans IV", "T1 NC"),
    *(
        "T1 ohne KM i.v.",
        "T1 W/O GAD",
        "AX T1 W/OUT GAD",
        "T1 W-O GAD",
        "T1 AX W/O CON",
        "T1 fat sat no contrast",
        "AX T1 FS W/O",
        "T1 non-enhanced",
    ),
    *(
        "T1 sin contraste",
        "T1 prior to contrast",
        "T1 s KM",
        "T1 w.o. contrast",
        "T1oKM",
        "T1 s. c.",
        "T1 KM nein",
        "T1fs pre",
        "sagT1n",
        "T1FSpre",
        "T1 SIN CTE",
        "T1 SAG S/C",
        "T1 sem contraste",
        "T1 antes de contraste",
    ),
)
ENHANCED = (
    *("T1 GADO", "T1 magnevist", "T1 Omniscan", "T1 +k", "T1 + KM", "T1 +C", "T1 C+", "T1+C", "T1 Gd-DTPA", "T1 Gd"),
    *("AX T1 POST", "AX T1 POST GAD", "AX T1 FS POST CONTRAST", "T1 W/ CONTRAST", "T1 with contrast", "T1 W CONTRAST"),
    *(
        "T1c",
        "T1ce",
        "T1Gd",
        "T1 CE",
        "T1 contrast enhanced",
        "mprage gad",
        "T1 SAG FS+GD",
        "t1_post",
        "T1 iv contrast",
    ),
    *("T1 mit KM", "T1 m. KM", "T1 nach KM", "T1 nach KM-Gabe", "t1_tse_tra_KM", "T1 postkontrast", "T1 Gadovist"),
    *("T1 après injection", "T1 apres gado", "T1 avec injection", "T1 INJECTE", "T1 Dotarem", "T1 ProHance"),
    *("T1 efter kontrast", "T1 med kontrast", "T1 po kontrascie", "T1 met contrast", "T1 na contrast"),
    *("T1 con contraste", "T1 C/C", "T1 dopo mdc", "T1 con mdc", "T1 después de contraste", "T1 pos contraste"),
    *(
        "T1 med k",
        "T1 efter k",
        "T1 n. KM",
        "T1 nach KM i.v.",
        "T1 mKM",
        "T1 AP INJ",
        "T1 poscontraste",
        "T1 EOB 20min",
    ),
    *(
        "T1 AXIAL W/GAD",
        "AX T1 W/CON",
        "T1 AX WITH",
        "T1 no FS + GAD",
        "T1 + CM",
        "T1 C/ MC",
        "T1 without FS post gad",
        "T1 C/GD",
        "T1 PDC",
    ),
    *(
        "T1mKM",
        "T1 C +",
        "T1 [C+]",
        "T1 c. c.",
        "T1 con c.",
        "sub-01_ce-gadolinium_T1w",
        "T1FSGD",
        "AXT1POST",
        "t1tsekm",
        "T1WPOST",
        "t1_vibe_fs_tra_arterial",
        "T1 enhanced",
    ),
)
CONTRADICTORY = (
    *("T1 +/- KM", "T1 W/WO", "T1 W WO CONTRAST", "T1 W & WO", "T1 PRE/POST", "T1 pre and post gad", "T1 -KM", "T1-C"),
    *("T1 with and without contrast", "T1 mit und ohne KM", "T1 avec et sans gado", "T1 con y sin contraste", "T1 dyn"),
    *(
        "T1 W/O+W",
        "T1 WWO",
        "T1 W/&W/O",
        "AX T1 W+WO",
        "T1 PREPOST",
        "T1 GADO NON",
        "T1 Gd -",
        "T1 — KM",
        "T1 - Gd",
        "T1 WO/W",
        "T1 CON",
        "T1 CM",
        "t1_vibe_fs_tra_art",
        "T1 VIBE 20 min",
        "T1 delay",
        "T1 perfusion",
        "T1 AX POS",
        "T1 KM-",
        "T1 native + post",
    ),
)
SILENT = (
    *(
        "t1_tse_tra",
        "T1 SAG",
        "t1_mprage_sag_p2_iso",
        "T1 post op",
        "T1 postop",
        "T1 POST RT",
        "T1 pre op",
        "T1 3D SPACE",
    ),
    *("T1 without fat sat", "T1 ohne FS", "T1 no FS", "T1 sans fat sat", "T1 C-SPINE", "T1 SAG C SPINE", "T1 C1-C7"),
    *(
        "SAG T1 W",
        "T1FS AX",
        "T1 W FS",
        "T1 - C SPINE",
        "sagT1tse",
        "T1MPRAGE",
        "T1SE TRA",
        "T1 post fossa",
        "T1 nach Bestrahlung",
        "T1 with FS",
        "T1 TRA 5 mm",
        "T1 min TE",
        "T1 pre surgery",
        "T1 control",
    ),
    *("T1 phase contrast", "T1 AX POSTERIOR FOSSA", "T1W_FFE_TRA", "T1 SAG L-SPINE", "T1 cor", "T1 COL. CERVICALE"),
)


@pytest.mark.parametrize(
    ("texts", "said", "kinds"),
    [
        (NATIVE, {False}, {"T1"}),
        (ENHANCED, {True}, {"T1CE"}),
        (CONTRADICTORY, {True, False}, {"T1", "T1CE"}),
        (SILENT, set(), {"T1"}),
    ],
    ids=["native", "enhanced", "contradictory", "silent"],
)
def test_words_tell_before_from_after_contrast_agent(texts, said, kinds):
    wrong = {text: agent_in(text) for text in texts if agent_in(text) != said}
    assert not wrong
    assert not {text for text in texts if modalities_in(text) & {"T1", "T1CE"} != kinds}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("t2f", {"FLAIR"}),
        ("t2w", {"T2"}),
        ("t1n", {"T1"}),
        ("t1c", {"T1CE"}),
        ("T1 mapping", set()),
        ("T1_MAP", set()),
        ("MOLLI T1", set()),
        ("t1map_long_t1", set()),
        ("T2* mapping", set()),
        ("T2 SAG T1-T12", {"T2"}),
        ("T2_TSE T1 - T7", {"T2"}),
        ("C7-T1 t2_tse", {"T2"}),
        ("T1 sag C7-T1", {"T1"}),
        ("MR thoracic spine T1-T12", {"MR"}),
        ("CT T1-T12", {"CT"}),
        ("t2_tse level T1", {"T2"}),
        ("T1/T2", {"T1", "T2"}),
        ("axT2fs", {"T2"}),
        ("T2SPIR", {"T2"}),
        ("T2se", {"T2"}),
        ("t2s", {"T2*"}),
        ("T1spine", set()),
        ("T1-T2", {"T1", "T2"}),
        ("SUV", {"PET"}),
    ],
)
def test_maps_and_vertebrae_are_no_contrasts(text, kinds):
    assert modalities_in(text) == kinds


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("T1n", "T1"),
        ("T1 pre", "T1"),
        ("T1 without contrast", "T1"),
        ("T1Gd", "T1CE"),
        ("T1 +C", "T1CE"),
        ("T1map", ""),
    ],
)
def test_names_of_channels_say_the_same(name, kind):
    assert Channel(0, name).kind == kind


WITHOUT = (
    *(
        "without",
        "w/o",
        "wo",
        "no",
        "non",
        "ohne",
        "o.",
        "kein",
        "sans",
        "utan",
        "ej",
        "senza",
        "senza il",
        "sin",
        "sem",
    ),
    *("zonder", "uden", "uten", "bez", "pre", "vor", "prä", "before", "avant", "före", "antes de", "prima del", "før"),
)
WITH = (
    *("with", "w/", "post", "mit", "m.", "nach", "avec", "après", "after", "con", "med", "met", "com", "efter", "dopo"),
    *("después de", "depois", "po", "na", "etter"),
)
AGENTS = (
    *(
        "contrast",
        "gad",
        "gado",
        "gd",
        "gadolinium",
        "KM",
        "Kontrastmittel",
        "contraste",
        "contrasto",
        "kontrast",
        "inj",
    ),
    *("Gadovist", "mdc", "mezzo di contrasto", "produit de contraste", "contrast medium", "i.v. KM", "PDC", "Gd-DTPA"),
    *("injection de gadolinium", "KM i.v.", "kontrastmedel", "contrast agent", "medio de contraste"),
)
PLACES = ("AX T1 {}", "t1_tse_{}", "{} T1 SAG", "T1-{}", "T1 ({})", "T1 tra fs {} 3mm", "SAG T1 {} FS")


@pytest.mark.parametrize(("prepositions", "said"), [(WITHOUT, {False}), (WITH, {True})], ids=["without", "with"])
def test_every_preposition_with_every_agent(prepositions, said):
    texts = [
        place.format(separator.join((preposition, agent)))
        for place, preposition, agent in itertools.product(PLACES, prepositions, AGENTS)
        for separator in (" ", "_")
    ]
    assert not {text: agent_in(text) for text in texts if agent_in(text) != said}
