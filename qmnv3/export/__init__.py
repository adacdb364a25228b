"""Writers of deployable files; they read only the QuantGraph."""
