"""Examples that ship with the package, so that ``penstock demo`` runs from an installed wheel too."""
