"""Transform files of other programs: FSL, FreeSurfer, elastix."""
