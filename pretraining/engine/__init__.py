"""The data engine (Fig. 2, App. B.1): organ templates in, two views of one synthetic anatomy out.

Start reading in ``synthesis``, which joins the parts. ``label_models`` chooses the label model of a
sample (Fig. 2A): a label ensemble (``ensemble``, with ``affine``, ``bending``, ``placement``,
``median`` and ``foreground``), shapes without anatomy (``smshapes``) or a whole subject of the bank
(``anatomy``). ``appearance`` turns the labels into two views (Fig. 2B, with ``mixture``, ``fields``
and ``artefacts``), and ``online`` augments them at every use (``geometry`` and ``artefacts``). Each
part is a pair of functions: ``sample_x(config, ..., generator)`` draws all random parameters, and
``apply_x`` or ``render_x`` computes tensors from them and draws nothing.
"""
