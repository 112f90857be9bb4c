"""Other registration programs, each described by a JSON file; the shipped ones lie here."""
