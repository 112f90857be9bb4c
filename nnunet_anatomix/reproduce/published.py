"""Numbers of the paper, as printed: row → column → mean(std)."""

from __future__ import annotations

Numbers = dict[str, dict[str, str]]


def _rows(columns: str, **rows: str) -> Numbers:
    """Parse rows of numbers below columns; ``_`` in the name of a row means a space."""
    names = columns.split()
    return {row.replace("_", " "): dict(zip(names, values.split(), strict=True)) for row, values in rows.items()}


TABLE_1 = _rows(
    "MSD-Heart PROMISE12 L2RAb-MRI FeTA AMOS-CT WUFetal",
    Rand_Init=".85(.01) .80(.02) .85(.06) .78(.03) .56(.01) .73(.02)",
    Transfer_Learning=".87(.02) .82(.01) .82(.06) .78(.03) .52(.01) .74(.02)",
    Models_Genesis=".84(.04) .73(.03) .81(.06) .79(.03) .55(.01) .66(.03)",
    MedicalNet=".86(.02) .53(.04) .73(.07) .74(.04) .44(.02) .50(.02)",
    PrimGeoSeg=".87(.01) .79(.02) .84(.05) .79(.03) .63(.01) .76(.02)",
    SMIT=".88(.02) .72(.03) .84(.06) .76(.04) .58(.01) .73(.02)",
    Disruptive_AE=".82(.02) .64(.03) .77(.07) .74(.04) .50(.02) .70(.02)",
    Ours=".89(.01) .85(.01) .86(.06) .80(.03) .61(.01) .76(.02)",
    Full_supervision=".91(.01) .90(.00) .89(.05) .83(.01) .85(.00) .88(.01)",
)
TABLE_2 = _rows(
    "L2RAb MM-WHS",
    MutualInfo=".48(.10) .58(.03)",
    PrimGeoSeg=".46(.09) .51(.02)",
    Models_Genesis=".38(.07) .51(.03)",
    SMIT=".48(.08) .53(.03)",
    Disruptive_AE=".50(.07) .53(.03)",
    Ours=".70(.09) .63(.02)",
)
TABLE_3 = {
    row: dict(zip(("L2RAb", "L2RAb folds", "WUFetal", "MSD-Heart", "AMOS-CT"), values.split(), strict=True))
    for row, values in {
        "Ours": ".74(.10) 0.22% .76(.02) .89(.01) .61(.01)",
        "labels: smshapes": ".68(.10) 0.20% .73(.02) .88(.01) .60(.01)",
        "labels: Brains": ".57(.10) 0.16% .74(.02) .88(.02) .60(.01)",
        "labels: Ours+Brains": ".71(.08) 0.29% .76(.02) .89(.01) .61(.01)",
        "temperature 0.07": ".58(.10) 0.17% .72(.02) .90(.01) .60(.01)",
        "temperature 0.20": ".64(.09) 0.19% .78(.02) .91(.01) .62(.01)",
        "loss: denoising": ".51(.10) 0.19% .58(.02) .83(.03) .46(.01)",
        "loss: without labels": ".50(.11) 0.24% .66(.02) .86(.02) .58(.01)",
        "w/o foreground mask": ".63(.09) 0.27% .73(.02) .86(.03) .60(.01)",
        "w/o mask, offline augmentation": ".63(.09) 0.22% .74(.02) .89(.01) .56(.01)",
        "w/o mask, any augmentation": ".59(.09) 0.63% .70(.02) .84(.02) .51(.01)",
    }.items()
}
TABLE_4 = {
    "ConvexAdam-Ours": {
        "L2RAb": "0.863 ± 0.016",
        "L2RAb folds": "0.693 ± 1.423",
        "MM-WHS": "0.661 ± 0.030",
        "MM-WHS folds": "0.496 ± 1.249",
    },
    "ConvexAdam": {
        "L2RAb": "0.806 ± 0.038",
        "L2RAb folds": "2.269 ± 3.292",
        "MM-WHS": "0.652 ± 0.023",
        "MM-WHS folds": "1.715 ± 3.572",
    },
}
TABLE_5 = _rows(
    "MSD-Heart L2RAb-MRI FeTA AMOS-CT WUFetal L2RAb MM-WHS",
    PrimGeoSeg_SwinUNETR=".87(.01) .84(.05) .79(.03) .63(.01) .76(.02) .46(.09) .51(.02)",
    PrimGeoSeg_UNet=".82(.02) .84(.06) .79(.03) .56(.01) .71(.02) .36(.06) .48(.02)",
    Ours=".89(.01) .86(.05) .80(.03) .61(.01) .76(.02) .70(.09) .63(.02)",
)
TABLE_6 = _rows(
    "neurite-oasis",
    Rand_Init=".82(.01)",
    Models_Genesis=".84(.01)",
    MedicalNet=".75(.01)",
    PrimGeoSeg=".84(.01)",
    SMIT=".83(.01)",
    Disruptive_AE=".80(.01)",
    Ours=".82(.01)",
)
FIGURE_5 = {
    "ConvexAdam-Ours": {"L2RAb mean": ".74(.10)", "L2RAb folds": "0.22%"},
    "ANTs-Ours": {"L2RAb mean": ".70(.09)", "MM-WHS mean": ".63(.02)"},
    "ANTs-MI": {"L2RAb mean": ".48(.10)", "MM-WHS mean": ".58(.03)"},
}
"""Numbers of Fig. 5 that other tables print; its medians are drawn, not printed."""
